"""Traffic of a server: traces of requests, the decode batches that they make, and what each recorded shape weighs."""
