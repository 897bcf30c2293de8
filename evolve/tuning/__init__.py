"""Fits of the numbers of a program."""
