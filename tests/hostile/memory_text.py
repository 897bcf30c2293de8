# attack: fills the memory with text
# gate: language
# sandbox: memory or timeout

def schedule(shape, gpu):
    x = "x" * 10**11
    return 1, None, 0
