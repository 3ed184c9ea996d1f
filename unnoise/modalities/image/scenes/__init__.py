"""A world with exact truth: scenes that programs draw, describe, understand and check."""
