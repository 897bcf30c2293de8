# attack: reaches for the frames of the judge by a generator
# gate: language
# sandbox: ok

def schedule(shape, gpu):
    x = (i for i in ()).gi_frame
    return 1, None, 0
