# attack: leaves the process group that the judge kills
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import posix
    posix.setsid()
    return 1, None, 0
