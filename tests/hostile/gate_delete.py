# attack: removes builtins that the judge's own code needs
# gate: language
# sandbox: ok or crashed or raised

def schedule(shape, gpu):
    import builtins
    del builtins.len
    return 1, None, 0
