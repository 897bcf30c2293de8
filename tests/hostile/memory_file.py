# attack: makes a file in memory, to share or to run it
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import posix

    posix.memfd_create("x")
    return 1, None, 0
