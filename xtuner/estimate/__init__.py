"""Estimate memory, traffic and time of a run before anything is loaded: no torch, no weights, no network.

shape.py       config.json -> numbers and shapes of weights
configured.py  a config -> the settings that decide memory and time
memory.py      both -> bytes, part by part
fixes.py       changes of the config that save memory
speed.py       both -> arithmetic, time
machine.py     the resources of this machine
"""
