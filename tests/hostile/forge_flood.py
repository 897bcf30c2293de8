# attack: writes without end
# gate: language
# sandbox: crashed

def schedule(shape, gpu):
    import posix
    while True:
        posix.write(1, b"[" * 65536)
    return 1, None, 0
