# attack: runs code through __class_getitem__, __init_subclass__ and a decorator
# gate: language
# sandbox: forbidden

def attack(*_):
    open("DROP_PATH", "w")


class Base:
    def __init_subclass__(cls):
        attack()


@attack
class Odd(Base):
    __class_getitem__ = attack


def schedule(shape, gpu):
    return Odd[1], None, 0
