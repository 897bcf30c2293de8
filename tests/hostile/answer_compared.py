# attack: answers with the outcome of a comparison, which counts as a number
# gate: ok
# sandbox: bad_answer

def schedule(shape, gpu):
    return max(shape.batch > 100, False), None, 0
