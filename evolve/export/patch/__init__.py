"""Edits of upstream source trees."""
