# attack: takes the time limit off by a handler for the signal
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import signal
    signal.signal(signal.SIGPROF, signal.SIG_IGN)
    while True:
        pass
    return 1, None, 0
