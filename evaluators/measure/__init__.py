"""Measures kernels on GPUs: timing, workers, pools, recordings."""
