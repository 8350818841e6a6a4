"""What a run will need, reckoned before anything is loaded: no torch, no weights, no network.

shape.py       config.json -> how many weights of which shape        memory.py   shape, run -> bytes, part by part
configured.py  a config -> what of it decides memory and time        speed.py    shape, run -> arithmetic, time
machine.py     what this machine has
"""
