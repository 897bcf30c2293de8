# attack: spells fields and functions with letters that Python folds to ASCII
# gate: language
# sandbox: ok or forbidden

def schedule(shape, gpu):
    return ｍｉｎ(ｓｈａｐｅ.ｂａｔｃｈ, 4), None, 0
