# attack: makes a file unreadable
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import posix
    posix.chmod("CANARY_PATH", 0)
    return 1, None, 0
