"""Prompts, their templates and what a run has learnt."""
