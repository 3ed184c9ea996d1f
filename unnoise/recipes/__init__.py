"""Whole runs as Python functions that return a typed, complete configuration."""
