# attack: hides a function in a class
# gate: language
# sandbox: ok

class Hidden:
    def __call__(self, shape, gpu):
        return 1, None, 0


schedule = Hidden()
