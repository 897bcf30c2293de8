"""Certificates that few shapes become slower: abstaining rules, fresh shapes, a bound."""
