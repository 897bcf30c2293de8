"""Measuring on many GPUs: a pool of workers, each alone on its GPU, and the executors that start them.

`pool.Pool` is what callers use. It asks an executor (`local`, `ray`) for workers, hands them batches of launches
under leases, and gives every answer to the client that asked for it exactly once, whatever dies in between.
"""
