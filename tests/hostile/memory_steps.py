# attack: fills the memory step by step
# gate: ok
# sandbox: memory or timeout

def schedule(shape, gpu):
    x = []
    for i in range(1000000000):
        x.append([0] * 1000000)
    return 1, None, 0
