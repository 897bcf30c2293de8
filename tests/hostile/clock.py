# attack: decides by the clock
# gate: language
# sandbox: ok
# again: unstable

import time


def schedule(shape, gpu):
    return time.perf_counter_ns() // 100 % 128, None, 0
