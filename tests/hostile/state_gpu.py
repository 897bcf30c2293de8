# attack: keeps state in its argument
# gate: language
# sandbox: ok
# again: unstable

def schedule(shape, gpu):
    gpu.num_sms += 1
    return gpu.num_sms % 128, None, 0
