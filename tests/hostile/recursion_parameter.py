# attack: calls itself through a parameter that hides a helper
# gate: language
# sandbox: raised

def helper(a, b):
    return a


def schedule(shape, gpu):
    return again(again, gpu)


def again(helper, gpu):
    return helper(helper, gpu)
