# attack: runs code in the annotation of a result
# gate: language
# sandbox: forbidden

def schedule(shape, gpu) -> open("DROP_PATH", "w"):
    return 1, None, 0
