"""Source in, evaluation out."""
