"""Words: the prompt language, frozen text encoders of other makers, several at once, and spelling."""
