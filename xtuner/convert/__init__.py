"""Convert checkpoints to folders and files for other programs; tensors are streamed, no model is built.

pth_to_hf    iter_N.pth + config          ->  an adapter folder, or a model folder
checkpoint   iter_N.pth, a sharded folder ->  one file, or back
merge        model folder + adapter       ->  a model folder
split        model folder                 ->  the same with one tensor in each file
quantize     model folder                 ->  a model folder in 8 or 4 bits (quantised/)
gguf         model folder                 ->  one file for llama.cpp (gguf/)
ollama       model folder                 ->  a Modelfile
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xtuner.convert.hf_checkpoint_hook import HFCheckpointHook

__all__ = ["HFCheckpointHook"]


def __getattr__(name: str) -> Any:
    # Imported on first use: converting imports no training.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from xtuner.convert.hf_checkpoint_hook import HFCheckpointHook

    return HFCheckpointHook
