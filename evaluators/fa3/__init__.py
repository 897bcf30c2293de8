"""FlashAttention-3: its decision chain, its canonical launches, and what compiled libraries decided."""
