# attack: fills the memory with text
# gate: language
# sandbox: memory

def schedule(shape, gpu):
    x = "x" * 10**11
    return 1, None, 0
