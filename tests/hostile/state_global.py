# attack: counts its calls
# gate: language
# sandbox: ok
# again: unstable

calls = []


def schedule(shape, gpu):
    calls.append(1)
    return len(calls), None, 0
