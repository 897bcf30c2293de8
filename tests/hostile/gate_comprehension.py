# attack: reaches for all classes inside a comprehension
# gate: language
# sandbox: raised

def schedule(shape, gpu):
    x = [c for c in ().__class__.__base__.__subclasses__() if c.__name__ == "Popen"][0]
    return 1, None, 0
