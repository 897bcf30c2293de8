# attack: answers with a tuple whose items change each time they are read
# gate: language
# sandbox: bad_answer

class Answer(tuple):
    def __getitem__(self, index):
        return 10**9


def schedule(shape, gpu):
    return Answer((1, None, 0))
