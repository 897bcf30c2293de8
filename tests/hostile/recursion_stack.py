# attack: raises the recursion limit and overruns the stack
# gate: language
# sandbox: crashed or memory or timeout or raised

def schedule(shape, gpu):
    import sys
    sys.setrecursionlimit(10**9)


    class Deep:
        def __eq__(self, other):
            return [self] == [other]


    Deep() == Deep()
    return 1, None, 0
