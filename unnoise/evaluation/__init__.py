"""Metrics, two-sample tests, reports."""
