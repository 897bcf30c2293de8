# attack: goes on after running out of memory
# gate: language
# sandbox: timeout

def schedule(shape, gpu):
    while True:
        try:
            x = [0] * 10**10
        except MemoryError:
            pass
    return 1, None, 0
