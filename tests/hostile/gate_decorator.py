# attack: runs code in a decorator
# gate: language
# sandbox: forbidden

def helper(a):
    return a


@open("DROP_PATH", "w").write
def schedule(shape, gpu):
    return 1, None, 0
