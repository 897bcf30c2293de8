# attack: raises its own limits
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import ctypes
    ctypes.CDLL(None).setrlimit(9, (ctypes.c_ulong * 2)(2**40, 2**40))
    return 1, None, 0
