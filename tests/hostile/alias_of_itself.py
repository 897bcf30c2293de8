# attack: calls itself under the name of a math function
# gate: language
# sandbox: raised

def schedule(shape, gpu):
    ceil = schedule
    return ceil(shape, gpu)
