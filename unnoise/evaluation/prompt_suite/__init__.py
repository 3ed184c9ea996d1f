"""Prompts of which a program can tell whether a picture shows them: detector, reader, lists and scores."""
