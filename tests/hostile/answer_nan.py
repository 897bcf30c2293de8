# attack: answers with NaN
# gate: ok
# sandbox: bad_answer

import math


def schedule(shape, gpu):
    return math.inf - math.inf, None, 0
