# attack: replaces the filter of system calls
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import ctypes
    ctypes.CDLL(None).prctl(22, 0, 0, 0, 0)
    return 1, None, 0
