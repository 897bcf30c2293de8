# attack: takes objects apart with match
# gate: language
# sandbox: ok

def schedule(shape, gpu):
    match shape:
        case object(__class__=x):
            pass
    return 1, None, 0
