"""Distillation of a program into a few readable rules."""
