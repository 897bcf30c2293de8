# attack: answers with 10 MB of text
# gate: language
# sandbox: bad_answer

def schedule(shape, gpu):
    return "x" * 10**7
