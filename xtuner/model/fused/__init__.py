"""The layers of Llama-like families with less work and less memory than their own code, to the same result.

linear.py     LoRA layers that share an input, forward and backward by hand
experts.py    packed experts with adapters
mlp.py        the gated feed-forward block
norm.py       root mean square norm
rotary.py     rotary positions
segments.py   causal attention of packed samples on a CPU
layers.py     which modules of a loaded model run through these: `fuse(llm)`
"""

from xtuner.model.fused.layers import fuse, tile, unfuse

__all__ = ["fuse", "tile", "unfuse"]
