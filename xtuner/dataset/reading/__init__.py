"""Read rows of files: `load_dataset` opens files of all formats, also compressed or remote ones.

load.py       a path, pattern, folder, URL or hub name -> rows by split
files.py      rows of files, each with its file and line
json_files.py JSON and JSON lines
tables.py     CSV, workbooks, Parquet
shards.py     WebDataset shards
copies.py     local plain copies of compressed or remote files
selection.py  which rows are used
"""
