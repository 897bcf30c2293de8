"""Hands a program to the project whose kernel it was measured on: patch, proof and evidence in one folder."""
