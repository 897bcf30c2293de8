# attack: sleeps past the time limit
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import time
    time.sleep(60)
    return 1, None, 0
