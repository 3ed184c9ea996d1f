"""Save and load our own models; convert foreign weights, one file a format."""
