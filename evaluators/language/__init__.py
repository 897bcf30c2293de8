"""The subset of Python that heuristics are written in, and the gate that enforces it."""
