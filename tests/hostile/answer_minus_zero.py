# attack: answers with a zero that has a sign
# gate: ok
# sandbox: bad_answer

def schedule(shape, gpu):
    return -0.0, None, 0
