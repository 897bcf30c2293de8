# attack: spends the time before the first question
# gate: language
# sandbox: timeout

for i in range(10**15):
    pass


def schedule(shape, gpu):
    return 1, None, 0
