"""The cap alone of results/champions/fa3-metadata.py, which is what results/bundles/fa3-metadata exports."""

# EVOLVE-BLOCK-START


def schedule(shape, gpu):
    tiles = shape.batch * shape.num_heads_kv
    # One block cannot be split; 46 rows of at most 4 blocks keep the SMs busy without a combine kernel.
    if shape.num_n_blocks <= 1 or (tiles >= 46 and shape.num_n_blocks <= 4):
        return 1, None, 0
    # The cap only chooses the combine kernel: up to 64 splits where 4 rows must fill 132 SMs.
    return 64 if tiles <= 4 else 32, None, 0


# EVOLVE-BLOCK-END
