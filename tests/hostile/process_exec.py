# attack: becomes another program
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import posix
    posix.execv("/bin/sh", ["sh", "-c", "echo > DROP_PATH"])
    return 1, None, 0
