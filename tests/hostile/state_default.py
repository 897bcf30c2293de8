# attack: keeps state in a default argument
# gate: language
# sandbox: ok
# again: unstable

def schedule(shape, gpu, calls=[]):
    calls.append(1)
    return len(calls), None, 0
