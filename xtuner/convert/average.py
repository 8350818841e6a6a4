"""The weighted mean of checkpoints, or of adapter or model folders, in the form that they have.

iter_100.pth, iter_200.pth, iter_300.pth  ->  mean.pth   weights, and what the last one says of its run; no
                                                         optimizer state: training starts by load_from
adapter_1/, adapter_2/                    ->  mean/      files of the last one, their tensors averaged
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from xtuner.checkpoint_paths import check_exists, counted, find_checkpoints, is_folder
from xtuner.convert.average_adapters import check_settings, write_exact
from xtuner.convert.checkpoint_weights import CheckpointWeights
from xtuner.convert.folders import copy_other_files, model_folder
from xtuner.convert.mean import Mean, Source, fractions
from xtuner.convert.output import new_folder
from xtuner.convert.progress import byte_bar
from xtuner.convert.weights import Weights, write_file
from xtuner.engine.checkpoints.archive import InFiles
from xtuner.engine.checkpoints.files import save_checkpoint
from xtuner.engine.checkpoints.sharded import ShardedWriter, separate
from xtuner.errors import ConfigError, NotFoundError
from xtuner.language import translate
from xtuner.locks import writing
from xtuner.log import logger
from xtuner.model.lora import ADAPTER_CONFIG
from xtuner.model.state import PEFT_ADAPTER, is_adapter
from xtuner.model_folder import read_json
from xtuner.parallel.world import World


def average(
    sources: Sequence[str | Path],
    target: str | Path,
    *,
    last: int | None = None,
    weights: Sequence[float] | None = None,
    exact: bool = False,
) -> list[Path]:
    """Write the mean of `sources` as `target`; returns what it is the mean of.

    `sources` are checkpoints, or one work dir, whose `last` newest are taken, or folders of adapters or of
    models. `weights`: one for each; they are divided by their sum. `exact`: of adapters, one whose product
    B @ A is the mean of theirs.
    """
    paths = find_sources(sources, last)
    parts = fractions(weights, len(paths))
    for path, part in zip(paths, parts, strict=True):
        logger.info("%.4f  %s", part, path)
    out = Path(target).expanduser().absolute()
    if is_checkpoint(paths[0]):
        if exact:
            what = (
                "--exact is for adapter folders, and {path} is a checkpoint: make a folder of each with "
                "xtuner convert pth_to_hf first"
            )
            raise ConfigError(translate(what, path=paths[0]))
        _average_checkpoints(paths, parts, out)
    else:
        _average_folders(paths, parts, out, exact)
    return paths


def find_sources(given: Sequence[str | Path], last: int | None) -> list[Path]:
    """The sources that are named, or the `last` newest checkpoints of the work dir that is; oldest first."""
    paths = [Path(path).expanduser() for path in given]
    if len(paths) == 1 and paths[0].is_dir() and not is_folder(paths[0]):
        found = find_checkpoints(paths[0])
        paths = found[-last:] if last else found
        if len(paths) < max(2, last or 0):
            what = "{folder} holds {count} checkpoints; there must be {wanted}"
            raise ConfigError(translate(what, folder=given[0], count=len(found), wanted=max(2, last or 0)))
        return paths
    if last is not None and len(paths) == 1 and not paths[0].exists():
        raise NotFoundError(translate("there is no work dir {folder!r}", folder=str(given[0])))
    if last is not None:
        raise ConfigError(translate("--last is for a work dir; the sources that are named are all taken"))
    if len(paths) < 2:
        what = "{path} is one model: name at least two, or a work dir with checkpoints"
        raise ConfigError(translate(what, path=given[0]))
    for path in paths:
        if counted(path):
            check_exists(path)
    kinds = {is_checkpoint(path) for path in paths}
    if len(kinds) > 1:
        what = "checkpoints (.pth) and folders cannot be averaged together: make folders of the checkpoints"
        raise ConfigError(translate(what))
    return paths


def is_checkpoint(path: Path) -> bool:
    """Whether `path` names a checkpoint and not a folder of an adapter or a model."""
    return path.suffix == ".pth" or path.is_file() or is_folder(path)


def _average_checkpoints(paths: list[Path], parts: list[float], out: Path) -> None:
    if out.exists():
        raise ConfigError(translate("{path} exists: remove it, or name another", path=out))
    all_weights = [CheckpointWeights(path) for path in paths]
    newest = all_weights[-1]
    mean = Mean([Source(str(w.path), w, part) for w, part in zip(all_weights, parts, strict=True)])
    adapters = [w.meta.get("hf_files", {}).get(ADAPTER_CONFIG) for w in all_weights]
    check_settings([(p, json.loads(text)) for p, text in zip(paths, adapters, strict=True) if text])
    if any(name.startswith(PEFT_ADAPTER) for name in newest.infos):
        raise ConfigError(
            translate(
                "Only LoRA adapters and whole models have a mean: {path} is another adapter", path=paths[-1]
            )
        )
    if is_adapter(newest.infos):
        _say_what_it_is()
    out.parent.mkdir(parents=True, exist_ok=True)
    with writing(out, translate("the output")):
        state = _averaged_state(newest, mean, InFiles(out.parent))
        names = [[w.path.name, part] for w, part in zip(all_weights, parts, strict=True)]
        checkpoint = {"meta": {**newest.meta, "averaged": names}, "state_dict": state}
        if newest.is_sharded:
            ShardedWriter(World()).save(separate(checkpoint), out, is_newest=False)
        else:
            save_checkpoint(checkpoint, out, is_newest=False)


def _averaged_state(newest: CheckpointWeights, mean: Mean, empty: InFiles) -> dict[str, torch.Tensor]:
    """The mean by name, in memory that `empty` makes; tied weights stay tied."""
    state: dict[str, torch.Tensor] = {}
    with byte_bar(translate("Averaging"), _num_bytes(mean)) as advance:
        for name, info in mean.infos.items():
            first = newest.same_as[name]
            state[name] = state[first] if first in state else empty(info.shape, info.dtype).copy_(mean[name])
            advance(info.num_bytes)
    return state


def _average_folders(paths: list[Path], parts: list[float], out: Path, exact: bool) -> None:
    folders = [model_folder(path, "the source") for path in paths]
    configs = [(f, read_json(f / ADAPTER_CONFIG)) for f in folders if (f / ADAPTER_CONFIG).is_file()]
    if configs and len(configs) < len(folders):
        raise ConfigError(translate("adapters and whole models cannot be averaged together"))
    if exact:
        if not configs:
            raise ConfigError(translate("--exact is for adapters; the mean of whole models is exact"))
        write_exact(folders, parts, out)
        return
    check_settings(configs)
    if configs:
        _say_what_it_is()
    all_weights = [Weights(folder) for folder in folders]
    mean = Mean([Source(str(w.folder), w, part) for w, part in zip(all_weights, parts, strict=True)])
    total = _num_bytes(mean)
    with new_folder(out, sources=tuple(folders), num_bytes=total) as folder:
        with byte_bar(translate("Averaging"), total) as advance:

            def load(name: str) -> torch.Tensor:
                advance(mean.infos[name].num_bytes)
                return mean[name]

            for file, infos in all_weights[-1].by_file().items():
                write_file(folder / file, infos, load)
        copy_other_files(folders[-1], folder)
        for index in folders[-1].glob("*.index.json"):
            (folder / index.name).write_bytes(index.read_bytes())


def _num_bytes(mean: Mean) -> int:
    return sum(info.num_bytes for info in mean.infos.values())


def _say_what_it_is() -> None:
    logger.warning(
        translate(
            "A and B of the adapters are averaged separately: their product is not the mean of the products "
            "B @ A. Of adapter folders --exact writes one whose product is, of the ranks' sum"
        )
    )
