# attack: forges a message with a line number of thousands of digits and a place that is no number
# gate: language
# sandbox: raised or crashed or forbidden

def schedule(shape, gpu):
    import sys

    frame = sys._getframe()
    while frame.f_code.co_name != "main":
        frame = frame.f_back
    nonce = frame.f_locals["nonce"]
    text = '{"nonce": "%s", "status": "raised", "message": "x", "line": %s, "at": true}' % (nonce, "9" * 4000)
    import posix

    posix.write(1, text.encode())
    posix._exit(0)
