# attack: leaves a file behind
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    open("DROP_PATH", "w").write("was here")
    return 1, None, 0
