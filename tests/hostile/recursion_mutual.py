# attack: calls itself by way of a helper
# gate: language
# sandbox: raised

def schedule(shape, gpu):
    return helper(shape, gpu)


def helper(shape, gpu):
    return schedule(shape, gpu)
