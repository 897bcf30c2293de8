# attack: aborts
# gate: language
# sandbox: forbidden or crashed

def schedule(shape, gpu):
    import os
    os.abort()
    return 1, None, 0
