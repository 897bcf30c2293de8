# attack: raises SystemExit
# gate: language
# sandbox: raised

def schedule(shape, gpu):
    raise SystemExit(0)
    return 1, None, 0
