# attack: builds code from text
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    eval("__imp" + "ort__('posix').open('DROP_PATH', 65)")
    return 1, None, 0
