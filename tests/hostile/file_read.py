# attack: reads a file of the user
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    raise ValueError(open("CANARY_PATH").read())
    return 1, None, 0
