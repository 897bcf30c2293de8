"""Measurements of kernels on GPUs: timing, workers, pools, recordings."""
