# attack: hides text by characters that change its direction
# gate: language
# sandbox: ok

def schedule(shape, gpu):
    # ‮⁦ hidden ⁩
    return 1, None, 0
