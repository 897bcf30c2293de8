# attack: runs code in a default argument
# gate: language
# sandbox: forbidden

def schedule(shape, gpu, file=open("DROP_PATH", "w")):
    return 1, None, 0
