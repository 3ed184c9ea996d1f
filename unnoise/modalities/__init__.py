"""One folder a kind of data: read it, encode it, show it, measure it."""
