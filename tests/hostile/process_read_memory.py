# attack: reads the memory of another process
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import ctypes
    ctypes.CDLL(None).process_vm_readv(1, 0, 0, 0, 0, 0)
    return 1, None, 0
