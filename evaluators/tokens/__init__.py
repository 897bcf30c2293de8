"""Time per output token: decode steps of a model's shard, measured and predicted."""
