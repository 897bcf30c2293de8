# attack: acts when an object is destroyed
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    class Late:
        def __del__(self):
            open("DROP_PATH", "w")


    Late()
    return 1, None, 0
