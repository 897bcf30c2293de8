"""Speed-ups, scores, regressions, overfitting, feedback."""
