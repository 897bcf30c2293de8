"""Prompts, their templates, and lessons of a run."""
