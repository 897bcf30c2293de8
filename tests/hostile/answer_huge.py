# attack: answers with a number of 10,000 digits
# gate: ok
# sandbox: bad_answer

def schedule(shape, gpu):
    x = 10
    for i in range(13):
        x = x * x
    return x, None, 0
