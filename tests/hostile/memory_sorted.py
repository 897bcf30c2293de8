# attack: fills the memory by sorting
# gate: ok
# sandbox: memory or timeout

def schedule(shape, gpu):
    x = sorted([0] * 9000000) + [0] * 90000000
    return 1, None, 0
