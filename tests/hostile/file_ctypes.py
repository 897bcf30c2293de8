# attack: opens a file by a bare system call
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import ctypes
    ctypes.CDLL(None).open(b"DROP_PATH", 65, 511)
    return 1, None, 0
