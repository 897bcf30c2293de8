# attack: writes something before the answer
# gate: language
# sandbox: crashed

def schedule(shape, gpu):
    import posix
    posix.write(1, b"{}")
    return 1, None, 0
