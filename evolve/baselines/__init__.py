"""Baselines: simpler ways to spend the same budget, so that a search has something to beat.

Each has a file of its own. All count model calls, distinct decision tables and table look-ups in one `Tally`, and
stop where the first of the three runs out.
"""
