# attack: reads from address 0
# gate: language
# sandbox: crashed

def schedule(shape, gpu):
    import ctypes
    ctypes.string_at(0)
    return 1, None, 0
