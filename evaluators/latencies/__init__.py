"""Recorded and stored latencies, interpolation, and the oracle."""
