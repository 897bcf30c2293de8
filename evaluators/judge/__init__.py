"""Evaluation of programs: from source to scores."""
