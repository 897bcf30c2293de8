"""Comparison of variation operators at equal budget: paired seeds, the holdout, intervals."""
