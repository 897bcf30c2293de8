"""Confined processes for candidates."""
