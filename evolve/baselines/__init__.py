"""Baselines: simpler methods for the same budget, to compare a search with.

Each has a file of its own. All count model calls, distinct decision tables and table look-ups in a `Tally`, and stop
when the first of the three runs out.
"""
