"""Scores of texts by a model for sequence classification, such as a reward model.

rows.py     a row of any format -> the texts that are scored
scorer.py   model and tokenizer: texts -> the head's numbers
results.py  numbers -> the JSON of a row, and the summary of all rows
file.py     a file of rows -> a file of results, which a killed run continues
"""
