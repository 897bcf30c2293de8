# attack: finds the nonce, answers, and goes on using CPU time
# gate: language
# sandbox: timeout

def schedule(shape, gpu):
    import json, posix, sys

    frame = sys._getframe()
    while "nonce" not in frame.f_locals:
        frame = frame.f_back
    nonce, rows = frame.f_locals["nonce"], len(frame.f_locals["questions"]["rows"])
    posix.write(1, json.dumps({"nonce": nonce, "status": "ok", "rows": [[1, None, 0, 0]] * rows}).encode())
    while True:
        pass
    return 1, None, 0
