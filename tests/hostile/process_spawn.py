# attack: spawns a program
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import posix
    posix.posix_spawn("/bin/touch", ["touch", "DROP_PATH"], {})
    return 1, None, 0
