# attack: answers with an object that claims to be an int
# gate: language
# sandbox: bad_answer

class Odd:
    __class__ = int

    def __int__(self):
        return 1


def schedule(shape, gpu):
    return Odd(), None, 0
