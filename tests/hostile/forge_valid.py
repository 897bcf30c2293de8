# attack: finds the nonce and gives a whole answer: decisions like any others
# gate: language
# sandbox: ok

def schedule(shape, gpu):
    import json, posix, sys

    frame = sys._getframe()
    while "nonce" not in frame.f_locals:
        frame = frame.f_back
    nonce, rows = frame.f_locals["nonce"], len(frame.f_locals["questions"]["rows"])
    posix.write(1, json.dumps({"nonce": nonce, "status": "ok", "rows": [[1, None, 0, 0]] * rows}).encode())
    posix._exit(0)
    return 1, None, 0
