"""Time per output token: one decode step of a model's shard, measured, and what a faster kernel makes of it."""
