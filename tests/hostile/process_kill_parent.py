# attack: kills the judge
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import posix
    posix.kill(posix.getppid(), 9)
    return 1, None, 0
