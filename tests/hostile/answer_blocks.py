# attack: answers above the range for blocks per split
# gate: ok
# sandbox: bad_answer

def schedule(shape, gpu):
    return 2, None, 0


def blocks_per_split(work, gpu):
    return 9007199254740992
