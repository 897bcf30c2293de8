# attack: waits for more questions
# gate: language
# sandbox: ok

def schedule(shape, gpu):
    import posix
    posix.read(0, 1)
    return 1, None, 0
