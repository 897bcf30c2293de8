"""Verbs about time per output token."""
