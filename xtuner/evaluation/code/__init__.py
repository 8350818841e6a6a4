"""Programs that a model writes, on their tests: the tasks of the kind `code` of `xtuner eval`.

layouts.py     rows of HumanEval, MBPP or a user's file -> what is asked, and the program that is tested
sandbox.py     a program -> whether it passes, in a process without network, files and much memory
enter.py       a script: the namespaces of that process, where there is no bubblewrap
inside.py      a script: the limits, the program, and the report, inside of them
check.py       an answer -> its code and outcome; pass@k of several answers
"""
