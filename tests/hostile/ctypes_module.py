# attack: loads a kernel module, as root may
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import ctypes
    ctypes.CDLL(None).syscall(175, b"", 0, b"")
    return 1, None, 0
