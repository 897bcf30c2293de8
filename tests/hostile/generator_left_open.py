# attack: keeps a half-used generator for the next shape in a comprehension's own name
# gate: language
# sandbox: ok
# again: unstable

def schedule(shape, gpu):
    global kept
    try:
        return next(kept), None, 0
    except NameError:
        kept = (i % 7 for i in range(10**9))
        return 0, None, 0
