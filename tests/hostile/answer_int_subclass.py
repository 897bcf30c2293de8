# attack: answers with a number that changes when it is looked at
# gate: language
# sandbox: bad_answer

class Odd(int):
    def __le__(self, other):
        return True

    __ge__ = __le__


def schedule(shape, gpu):
    return Odd(1), None, 0
