# attack: makes the parser warn, which opens a file
# gate: language
# sandbox: ok

def schedule(shape, gpu):
    return (1 if shape.batch is 3 else 2), None, 0
