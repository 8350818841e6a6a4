"""Inspect a data set: stages of rows, counts, lengths and faults; as text, HTML page or JSON."""
