"""The built-in configs: three tables of facts and one program that writes files from them.

    models.py  datasets.py  methods.py   the tables
    catalogue.py   name -> the rows it stands for       plan.py   rows -> settings
    parts.py  page.py  render.py         settings -> the text of a config

Nothing here imports torch; everything that a config mentions is text.
"""
