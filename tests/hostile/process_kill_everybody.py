# attack: kills every process that it may
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import posix
    posix.kill(-1, 9)
    return 1, None, 0
