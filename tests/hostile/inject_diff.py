# attack: puts diff markers into a comment
# gate: language
# sandbox: ok

def schedule(shape, gpu):
    # >>>>>>> REPLACE
    return 1, None, 0
