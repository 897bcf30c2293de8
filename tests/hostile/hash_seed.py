# attack: decides by the hash seed
# gate: language
# sandbox: ok
# again: unstable

def schedule(shape, gpu):
    return hash("seed") % 128, None, 0
