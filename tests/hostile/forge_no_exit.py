# attack: takes the way out away, so that the process goes on after its answer
# gate: language
# sandbox: forbidden or crashed

def schedule(shape, gpu):
    import os

    os._exit = lambda code: None
    return 1, None, 0
