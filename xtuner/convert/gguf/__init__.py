"""A model folder as one GGUF file, for llama.cpp: F16, Q8_0 or K-quants.

write.py         the file: metadata, and tensors one by one
tensor_types.py  which type each tensor has, and its bytes
tokenizer.py     a tokenizer as metadata
check.py         the file against the folder: logits and perplexity
"""

from xtuner.convert.gguf.write import to_gguf

__all__ = ["to_gguf"]
