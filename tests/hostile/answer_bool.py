# attack: answers with a bool where a number is due
# gate: ok
# sandbox: bad_answer

def schedule(shape, gpu):
    return True, None, 0
