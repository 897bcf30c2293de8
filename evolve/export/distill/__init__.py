"""Distils a program into a few readable rules."""
