"""Verbs about agents as operators: `agent` and `compare`."""
