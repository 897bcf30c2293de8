# attack: reaches for attributes by name
# gate: language
# sandbox: ok

def schedule(shape, gpu):
    x = getattr(shape, "__cl" + "ass__")
    return 1, None, 0
