# attack: answers with a list
# gate: ok
# sandbox: bad_answer

def schedule(shape, gpu):
    return [1, None, 0]
