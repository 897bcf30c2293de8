"""Paired confirmation on a live GPU, compiled builds, and the reference paper."""
