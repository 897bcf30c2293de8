# attack: fills the memory at once
# gate: ok
# sandbox: memory or timeout

def schedule(shape, gpu):
    x = [0] * 10000000000
    return 1, None, 0
