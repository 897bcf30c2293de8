"""The search loop, its population, budget and choice of models."""
