# attack: spends the time inside a builtin
# gate: ok
# sandbox: timeout

def schedule(shape, gpu):
    x = sum(range(1000000000000))
    return 1, None, 0
