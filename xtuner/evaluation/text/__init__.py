"""Language models on questions without images: `xtuner eval`.

tasks.py        files -> tasks: questions of one kind, with the examples before them
layouts.py      rows of MMLU, C-Eval, CMMLU, ARC, HellaSwag or a user's file -> questions with choices
likelihood.py   log-probabilities of texts after others
metrics.py      an answer and its reference -> a number
measure.py      the model on all questions of all tasks, continued after a kill
predict.py      its answers to all rows of a file: `xtuner predict`
results.py      numbers of each task, and a page with every answer
"""
