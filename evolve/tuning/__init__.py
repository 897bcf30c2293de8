"""Fits the numbers of a program."""
