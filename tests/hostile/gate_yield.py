# attack: answers with a generator
# gate: language
# sandbox: bad_answer

def schedule(shape, gpu):
    yield 1, None, 0
