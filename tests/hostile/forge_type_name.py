# attack: raises an exception whose class has a name of ten megabytes
# gate: language
# sandbox: crashed or memory

def schedule(shape, gpu):
    raise type("x" * 10_000_000, (Exception,), {})()
