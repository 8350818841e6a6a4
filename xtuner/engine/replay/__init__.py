"""The first updates of a run: what they were made of, what they gave, and whether that is still so.

facts.py      what an update depends on: packages, data files, template, tokenizer, weights, ...
batches.py    a batch: its rows, hashes of its samples, their first tokens
record.py     the hook that records; files.py the file replay.json
rerun.py      the same updates again, in a temporary work dir
compare.py    two records: what differs, the first cause, by how much
"""
