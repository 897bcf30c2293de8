# attack: matches a pattern that takes for ever
# gate: language
# sandbox: timeout

def schedule(shape, gpu):
    import re
    re.match("(a*)*b", "a" * 60)
    return 1, None, 0
