"""The built-in configs: three tables, and a program that writes config files from them.

    models.py  datasets.py  methods.py   the tables
    catalogue.py   name -> rows of the tables       plan.py   rows -> settings
    parts.py  page.py  render.py         settings -> the text of a config

Nothing here imports torch; everything that a config mentions is text.
"""
