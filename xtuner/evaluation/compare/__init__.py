"""Two models on the same rows, side by side: `xtuner compare`.

sides.py     a model, an adapter or a file -> a file of answers
pairs.py     two files of answers -> pairs, what differs in them, who wins by each metric
votes.py     which answer people prefer, and how sure that is
page.py      the page with both answers; script.py has its style and its script
server.py    the page where votes are given, served on this machine
"""
