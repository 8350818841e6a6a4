"""Talking to a model: what it is asked (`session`), how it answers (`generate`), the `terminal`."""
