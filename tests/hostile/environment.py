# attack: tells what it finds in the environment
# gate: language
# sandbox: raised

def schedule(shape, gpu):
    import os
    raise ValueError(str(os.environ))
    return 1, None, 0
