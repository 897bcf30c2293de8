"""Edits of programs without a model, guided by recorded curves."""
