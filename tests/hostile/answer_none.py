# attack: answers with nothing
# gate: ok
# sandbox: bad_answer

def schedule(shape, gpu):
    return None
