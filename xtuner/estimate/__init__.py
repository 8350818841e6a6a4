"""What a run will need, estimated before anything is loaded: no torch, no weights, no network.

shape.py       config.json -> how many weights of which shape
configured.py  a config -> what of it decides memory and time
memory.py      both -> bytes, part by part
fixes.py       what to change in the config so that it is less
speed.py       both -> arithmetic, time
machine.py     what this machine has
"""
