# EVOLVE-BLOCK-START
"""What vLLM launches under full CUDA graphs: the constant 32 (flash_attn_max_num_splits_for_cuda_graph)."""


def schedule(shape, gpu):
    return 32, None, 0


# EVOLVE-BLOCK-END
