"""Bundles: the change, its tables, its pull-request text."""
