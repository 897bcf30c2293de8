# attack: makes machine code executable
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import ctypes
    page = ctypes.create_string_buffer(8192)
    ctypes.CDLL(None).mprotect(ctypes.c_void_p(ctypes.addressof(page) & ~4095), 4096, 7)
    return 1, None, 0
