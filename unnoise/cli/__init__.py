"""The command line: names a recipe or a model and says what happens; no logic."""
