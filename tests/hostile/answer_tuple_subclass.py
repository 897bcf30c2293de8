# attack: answers with a tuple that changes when it is looked at
# gate: language
# sandbox: bad_answer

class Odd(tuple):
    def __getitem__(self, index):
        return 10**9


def schedule(shape, gpu):
    return Odd((1, None, 0))
