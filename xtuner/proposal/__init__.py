"""Propose a config for a model folder and a data file, with the reason for each choice.

model.py    the folder -> family, template, sizes      data.py   the file -> format, lengths
choices.py  both and the machine -> settings           config.py settings -> the text of a config
memory.py   a recipe -> the memory that its config needs
"""
