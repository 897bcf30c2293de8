"""Export targets and the inputs that they may read."""
