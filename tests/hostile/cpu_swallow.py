# attack: catches whatever would end it
# gate: language
# sandbox: timeout

def schedule(shape, gpu):
    while True:
        try:
            raise SystemExit
        except BaseException:
            pass
    return 1, None, 0
