# attack: decides by the process number
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import posix
    x = posix.getpid()
    return 1, None, 0
