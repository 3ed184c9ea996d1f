"""Guidance, editing, inverse problems, adapters."""
