# attack: puts terminal sequences into the text of an exception
# gate: language
# sandbox: raised

def schedule(shape, gpu):
    raise ValueError("\x1b]0;owned\x07\x1b[2J")
    return 1, None, 0
