"""Models of other makers: every format is read into one form (`parts`), and one builder makes our model of that (`building`)."""
