# attack: imports a module from disk
# gate: language
# sandbox: forbidden

def schedule(shape, gpu):
    import sqlite3
    sqlite3.connect("DROP_PATH")
    return 1, None, 0
