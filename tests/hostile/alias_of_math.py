# attack: gives one function the name of another, so that a translation to C++ reads it wrongly
# gate: language
# sandbox: ok

import math


def schedule(shape, gpu):
    floor = math.ceil
    return floor(shape.batch / 2), None, 0
