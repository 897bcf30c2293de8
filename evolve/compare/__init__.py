"""Variation operators beside each other at equal budget: paired seeds, the holdout, intervals."""
