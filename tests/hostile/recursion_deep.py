# attack: calls itself
# gate: language
# sandbox: raised

def schedule(shape, gpu):
    return schedule(shape, gpu)
