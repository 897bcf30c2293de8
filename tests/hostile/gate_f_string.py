# attack: runs code in an f-string
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    x = f"{open('DROP_PATH', 'w')}"
    return 1, None, 0
