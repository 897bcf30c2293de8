# attack: lists folders
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import posix
    raise ValueError(str(posix.listdir("/")))
    return 1, None, 0
