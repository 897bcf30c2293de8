# attack: reads from descriptors that the judge may have left open
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import io
    raise ValueError(str([io.FileIO(fd).read() for fd in range(3, 64)]))
    return 1, None, 0
