# attack: swallows the answer, so that its process ends well and says nothing
# gate: language
# sandbox: crashed or forbidden

def schedule(shape, gpu):
    import sys

    class Mute:
        buffer = property(lambda self: self)

        def write(self, data):
            return len(data)

        def flush(self):
            return None

    sys.stdout = Mute()
    return 1, None, 0
