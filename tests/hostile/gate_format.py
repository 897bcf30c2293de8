# attack: reaches for attributes by a format string
# gate: language
# sandbox: ok

def schedule(shape, gpu):
    x = "{0.__class__.__base__}".format(shape)
    return 1, None, 0
