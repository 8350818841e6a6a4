"""A model folder in 8 or 4 bits that transformers and vLLM read.

compressed.py  the folder, in the form of compressed-tensors
rounding.py    a matrix as its codes and scales, and back
"""

from xtuner.convert.quantised.compressed import quantize

__all__ = ["quantize"]
