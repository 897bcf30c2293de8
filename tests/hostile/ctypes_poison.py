# attack: marks a page of memory as broken, as root may
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import ctypes
    page = ctypes.create_string_buffer(8192)
    ctypes.CDLL(None).madvise(ctypes.c_void_p((ctypes.addressof(page) + 4095) & ~4095), 4096, 100)
    return 1, None, 0
