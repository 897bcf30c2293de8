# attack: makes a socket by the extension module
# gate: language
# sandbox: forbidden or raised

def schedule(shape, gpu):
    import _socket
    _socket.socket().connect(("127.0.0.1", LOOPBACK_PORT))
    return 1, None, 0
