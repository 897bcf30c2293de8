"""Several runs at once: one process per run under one parent, one folder for all of them."""
