# attack: asks for executable memory
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import ctypes
    ctypes.CDLL(None).mmap(None, 4096, 7, 34, -1, 0)
    return 1, None, 0
