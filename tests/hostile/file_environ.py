# attack: reads the environment of another process
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    raise ValueError(open("/proc/1/environ").read())
    return 1, None, 0
