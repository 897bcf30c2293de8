# attack: defines a function twice, so that the gate looks at one and Python at the other
# gate: language
# sandbox: ok

def helper(a):
    return helper(a)


def helper(a):
    return 1


def schedule(shape, gpu):
    return helper(shape), None, 0
