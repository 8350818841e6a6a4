"""Texts for models with a head: rows -> samples in the token store, with labels, groups or steps.

texts.py     rows -> samples of tokens, each text for itself
rows.py      what a row of each kind says
items.py     store -> items with what their samples are labelled with
"""
