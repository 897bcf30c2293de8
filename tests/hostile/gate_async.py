# attack: answers with a coroutine
# gate: language
# sandbox: bad_answer or forbidden

async def schedule(shape, gpu):
    return 1, None, 0
