"""Runs candidates in confined processes."""
