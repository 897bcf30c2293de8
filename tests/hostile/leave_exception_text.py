# attack: never ends while its exception is printed
# gate: language
# sandbox: timeout

def schedule(shape, gpu):
    class Slow(Exception):
        def __str__(self):
            while True:
                pass


    raise Slow
    return 1, None, 0
