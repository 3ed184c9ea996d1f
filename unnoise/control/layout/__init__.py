"""Layouts drawn first: what lies where is decided before a pixel is, by a grammar or a small model, and then told."""
