# EVOLVE-BLOCK-START
"""FA3's decision, except that equal sequences are cut so that their splits fill whole waves of SMs.

FA3's formula takes blocks per SM and a margin of 10%, which overshoots a wave by a few CTAs again and again where all
sequences have the same length. It needs sums and extremes over the batch alone, so that it fits the prepare kernel.
"""

import math


def schedule(shape, gpu):
    return 0, None, 0


def blocks_per_split(work, gpu):
    # Equal sequences: as many splits of each as still run in one wave.
    if work.max_n_blocks == work.min_n_blocks:
        return max(1, math.ceil(work.max_n_blocks / max(1, gpu.num_sms // (work.batch * work.num_heads_kv))))
    return 0


# EVOLVE-BLOCK-END
