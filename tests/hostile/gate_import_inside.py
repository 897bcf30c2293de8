# attack: imports inside a function
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    from os import path
    path.exists("CANARY_PATH")
    return 1, None, 0
