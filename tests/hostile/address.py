# attack: decides by where objects lie in memory
# gate: language
# sandbox: ok
# again: unstable

def schedule(shape, gpu):
    return id(gpu) // 4096 % 128, None, 0


def blocks_per_split(work, gpu):
    return id(gpu) // 4096 % 1000003 + 1
