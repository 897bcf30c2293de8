# attack: spells a builtin with letters that Python takes for ASCII
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    ｏｐｅｎ("DROP_PATH", "w")
    return 1, None, 0
