# attack: lifts the limit on digits and writes out a number of thirty million
# gate: language
# sandbox: timeout or memory

def schedule(shape, gpu):
    import sys

    sys.set_int_max_str_digits(0)
    return len(str(3 << 100_000_000)), None, 0
