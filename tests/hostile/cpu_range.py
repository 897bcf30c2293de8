# attack: loops over a huge range
# gate: ok
# sandbox: timeout

def schedule(shape, gpu):
    for i in range(1000000000000000):
        x = i
    return 1, None, 0
