# attack: answers below the range
# gate: ok
# sandbox: bad_answer

def schedule(shape, gpu):
    return -1, None, 0
