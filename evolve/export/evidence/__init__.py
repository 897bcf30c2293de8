"""Evidence for a change: decisions, gains, harm."""
