# attack: connects to a listener
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import socket
    socket.create_connection(("127.0.0.1", LOOPBACK_PORT))
    return 1, None, 0
