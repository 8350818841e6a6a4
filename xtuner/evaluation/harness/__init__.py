"""Tasks of EleutherAI's lm-evaluation-harness, answered by the model of `xtuner eval`.

run.py      names of tasks -> their numbers, and the files of a run
model.py    the model, as the harness asks it: log-probabilities and answers, each written when it comes
shown.py    what the harness returns -> the results of `xtuner eval`
"""
