# attack: squares a number until it takes for ever
# gate: ok
# sandbox: timeout or memory

def schedule(shape, gpu):
    x = 3
    for i in range(64):
        x = x * x
    return 1, None, 0
