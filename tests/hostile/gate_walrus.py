# attack: binds a name inside an expression
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    x = (y := open)("DROP_PATH", "w")
    return 1, None, 0
