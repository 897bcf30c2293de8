# attack: decides by which numbers the interpreter keeps as one object
# gate: language
# sandbox: ok

def schedule(shape, gpu):
    half = shape.seqlen_k // 2
    return (1 if half * 2 is shape.seqlen_k else 2), None, 0
