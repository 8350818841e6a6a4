"""Answers that are compared: rows -> samples in the token store -> pairs, or good and bad answers.

answers.py   rows of any data set -> prompt with each of its answers
samples.py   these -> token store, with the row and the score of each answer
units.py     store -> which samples belong together, packed
"""
