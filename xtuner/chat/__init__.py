"""Talking to a model: what it is asked (`session`), the `terminal`, the `server`."""
