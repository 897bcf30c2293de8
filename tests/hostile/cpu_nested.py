# attack: nests short loops
# gate: ok
# sandbox: timeout

def schedule(shape, gpu):
    for i in range(10000):
        for j in range(10000):
            for k in range(10000):
                x = k
    return 1, None, 0
