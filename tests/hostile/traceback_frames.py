# attack: climbs from an exception's traceback to its judge and gives itself more time and memory
# gate: language
# sandbox: timeout

def schedule(shape, gpu):
    try:
        1 / 0
    except ZeroDivisionError as error:
        frame = error.__traceback__.tb_frame
    while frame is not None:
        if "request" in frame.f_locals:
            frame.f_locals["request"]["limits"] = {"cpu_s": 1e9, "memory_mb": 1e9}
        frame = frame.f_back
    while True:
        pass
