# attack: answers with an object that turns into a number when it is used
# gate: language
# sandbox: bad_answer

class Number:
    def __index__(self):
        return 3


def schedule(shape, gpu):
    return Number(), None, 0
