"""FlashAttention-3: its decision chain and its canonical launches."""
