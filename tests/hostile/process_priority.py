# attack: slows other candidates down by priority
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import posix
    posix.nice(-20)
    return 1, None, 0
