# attack: moves onto the CPU of another candidate
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import posix
    posix.sched_setaffinity(0, [0])
    return 1, None, 0
