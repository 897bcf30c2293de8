# attack: raises to a huge power
# gate: language
# sandbox: timeout or memory

def schedule(shape, gpu):
    x = 7 ** 10**9
    return 1, None, 0
