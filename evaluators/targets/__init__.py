"""Targets: kernels whose schedule a heuristic may decide, behind one interface."""
