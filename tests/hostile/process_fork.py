# attack: outlives its limit in a child
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import posix
    if posix.fork() == 0:
        while True:
            pass
    return 1, None, 0
