"""A model folder with each tensor in a separate file."""

from __future__ import annotations

from pathlib import Path

import torch

from xtuner.convert.folders import copy_other_files, model_folder
from xtuner.convert.output import new_folder
from xtuner.convert.progress import byte_bar
from xtuner.convert.weights import Weights, write_weights
from xtuner.language import translate
from xtuner.log import logger


def split(src_dir: str | Path, dst_dir: str | Path) -> int:
    """Write `src_dir`'s model to `dst_dir`, one tensor per file, same format; returns the number of files."""
    source = model_folder(src_dir, "the model")
    weights = Weights(source)
    total = sum(info.num_bytes for info in weights.infos.values())
    logger.info(translate("Saving to %s..."), dst_dir)
    with new_folder(dst_dir, sources=(source,), num_bytes=total) as folder:
        with byte_bar(translate("Splitting"), total) as advance:

            def load(name: str) -> torch.Tensor:
                advance(weights.infos[name].num_bytes)
                return weights[name]

            files = write_weights(
                folder, weights.infos, load, max_shard_size=1, safe_serialization=weights.is_safe
            )
        copy_other_files(source, folder)
    return len(files)
