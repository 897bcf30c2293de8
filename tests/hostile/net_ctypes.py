# attack: makes a socket by libc
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import ctypes
    ctypes.CDLL(None).socket(2, 1, 0)
    return 1, None, 0
