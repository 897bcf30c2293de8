# attack: names a constant like the module that it imports
# gate: language
# sandbox: raised

import math

math = 3


def schedule(shape, gpu):
    return math.ceil(1.5), None, 0
