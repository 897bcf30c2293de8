# attack: asks for all SMs to be left free
# gate: ok
# sandbox: bad_answer

def schedule(shape, gpu):
    return 1, None, 132
