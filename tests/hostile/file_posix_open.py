# attack: opens a file without Python's own open
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import posix
    posix.open("DROP_PATH", posix.O_CREAT | posix.O_WRONLY)
    return 1, None, 0
