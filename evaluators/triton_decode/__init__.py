"""Decision chain of the kernel in `kernels/triton_decode/`: inputs, decisions, launches."""
