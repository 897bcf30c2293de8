# attack: keeps state on the function
# gate: language
# sandbox: ok
# again: unstable

def schedule(shape, gpu):
    schedule.calls = getattr(schedule, "calls", 0) + 1
    return schedule.calls, None, 0
