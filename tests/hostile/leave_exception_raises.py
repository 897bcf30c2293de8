# attack: raises while its exception is printed
# gate: language
# sandbox: crashed or forbidden

def schedule(shape, gpu):
    class Broken(Exception):
        def __str__(self):
            raise self


    raise Broken
    return 1, None, 0
