"""One update of a training run on `meta` tensors: what a GPU would move, launch and hold.

models.py      the models, by their public sizes, and a case: method, recomputation, tokens
build.py       a case's model without values: ours, or transformers with peft
gpu.py         what a GPU does and `meta` tensors do not: autocast, attention kernels, memory of the host
rules.py       what one operator moves and launches
parts.py       which part of a step an operator belongs to: norm, rotary, loss, ...
counter.py     counts operators and the bytes that live
update.py      one update of a case, counted
estimated.py   what xtuner.estimate says of its memory
"""
