"""The loop, the time grids, and one algorithm a file."""
