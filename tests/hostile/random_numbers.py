# attack: decides at random
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import _random
    x = _random.Random().random()
    return 1, None, 0
