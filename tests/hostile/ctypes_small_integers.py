# attack: changes what 1 is, in its own process
# gate: language
# sandbox: ok or crashed or bad_answer or raised or timeout

def schedule(shape, gpu):
    import ctypes
    ctypes.c_uint32.from_address(id(1) + 24).value = 77
    return 1, None, 0
