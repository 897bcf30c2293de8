# attack: never ends
# gate: language
# sandbox: timeout

def schedule(shape, gpu):
    while True:
        pass
    return 1, None, 0
