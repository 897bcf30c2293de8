# attack: runs a shell
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import os
    os.system("touch DROP_PATH")
    return 1, None, 0
