# attack: attaches to the judge as a debugger
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import ctypes
    ctypes.CDLL(None).ptrace(16, 1, 0, 0)
    return 1, None, 0
