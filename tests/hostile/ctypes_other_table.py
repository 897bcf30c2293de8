# attack: asks by the numbers of another system-call table
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import ctypes
    ctypes.CDLL(None).syscall(0x40000000 + 1, 1, b"x", 1)
    return 1, None, 0
