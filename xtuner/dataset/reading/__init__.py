"""From files to rows: `load_dataset` opens what a config names, by content and whatever it is packed in.

load.py       a path, pattern, folder, address or hub name -> rows by split
files.py      rows of files, each with its file and line
json_files.py JSON and JSON lines
tables.py     CSV, workbooks, Parquet
copies.py     what is packed or elsewhere, as a plain file of this machine
selection.py  which rows are used
"""
