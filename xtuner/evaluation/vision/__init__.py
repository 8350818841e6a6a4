"""Measure vision-language models on benchmarks of questions about images, answered greedily.

rows.py          files of any format -> questions: text, image, the fields that the metric reads
images.py        the image of a row: base64, a file, bytes, or the image of another row
benchmarks.py    MMBench, MME, ...: how a row becomes a question, and which metric scores the answers
refcoco.py       the same for RefCOCO's boxes
choices.py yes_no.py vqa.py boxes.py    the metrics: pure functions of answers
answers.py       questions -> a line of JSON each, as answers come; a killed run resumes
results.py       scores -> a table, JSON and a workbook
measure.py       all of it: one run of a command, by one or several processes
"""
