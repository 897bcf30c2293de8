# attack: rebinds a builtin for the judge's own code
# gate: language
# sandbox: bad_answer

def schedule(shape, gpu):
    import builtins
    builtins.len = lambda _: 0
    return 1, None, 0
