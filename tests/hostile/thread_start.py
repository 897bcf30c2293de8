# attack: goes on in a thread
# gate: language
# sandbox: forbidden or raised

def schedule(shape, gpu):
    import _thread
    _thread.start_new_thread(print, ())
    return 1, None, 0
