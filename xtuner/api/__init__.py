"""The functions of `from xtuner import new_config, train, chat, evaluate`; the commands call the same.

configs     new_config      a built-in config, a file, or one for a model and data
training    train           a run, and what it has left in its work dir
scores      evaluate        the scores of a model
chat        (xtuner.chat)   a model to talk to

Nothing here imports torch before it is needed.
"""
