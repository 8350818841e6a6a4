"""Language models on questions without images: `xtuner eval`.

tasks.py        files -> tasks: questions of one kind, with the examples before them
layouts.py      rows of MMLU, C-Eval, CMMLU, ARC, HellaSwag or a user's file -> questions with choices
likelihood.py   log-probabilities of texts after others
address.py      answers and log-probabilities of a model behind an OpenAI-compatible address
remote.py       its answers to questions, several at a time
metrics.py      an answer and its reference -> a number
measure.py      the model on all questions of all tasks, continued after a kill
predict.py      its answers to all rows of a file: `xtuner predict`
results.py      numbers of each task, and a page with every answer
"""
