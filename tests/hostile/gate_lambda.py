# attack: runs code in a lambda
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    x = (lambda: open("DROP_PATH", "w"))()
    return 1, None, 0
