# attack: calls a method of a name that only the interpreter knows
# gate: language
# sandbox: raised

def schedule(shape, gpu):
    __builtins__.append(1)
    return 1, None, 0
