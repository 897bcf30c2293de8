# attack: waits for ever without using CPU time
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import _thread
    lock = _thread.allocate_lock()
    lock.acquire()
    lock.acquire()
    return 1, None, 0
