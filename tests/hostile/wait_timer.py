# attack: winds the timer up again
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import signal
    signal.setitimer(signal.ITIMER_PROF, 0)
    while True:
        pass
    return 1, None, 0
