"""Proofs that emitted code decides as the program does."""
