# attack: starts another interpreter inside the process, which no list of its own names forbids
# gate: language
# sandbox: ok or raised or forbidden or crashed or memory

def schedule(shape, gpu):
    import _xxsubinterpreters as others

    one = others.create()
    others.run_string(one, "open('DROP_PATH', 'w')")
    return 1, None, 0
