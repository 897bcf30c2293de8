# attack: raises KeyboardInterrupt
# gate: language
# sandbox: raised

def schedule(shape, gpu):
    raise KeyboardInterrupt
    return 1, None, 0
