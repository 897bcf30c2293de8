# attack: runs code in an annotation
# gate: language
# sandbox: forbidden

def schedule(shape: open("DROP_PATH", "w"), gpu):
    return 1, None, 0
