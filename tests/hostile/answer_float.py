# attack: answers with a float
# gate: ok
# sandbox: bad_answer

def schedule(shape, gpu):
    return 2.0, None, 0
