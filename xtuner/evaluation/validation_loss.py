"""Loss and perplexity of any checkpoint of a config, on its test_dataloader or val_dataloader.

iter_300.pth                a file or a folder                  weights into the config's model
adapter_config.json in it   an adapter folder                      on the config's base model
config.json in it           a model folder, such as a merged one   instead of the config's model
None                        the base model
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from xtuner import dist
from xtuner.config import Builder, Config, check_names
from xtuner.config.internvl import general_config
from xtuner.config.load import with_values
from xtuner.config.schema import BUILT, passed_on
from xtuner.engine import build
from xtuner.engine.backend import make_backend
from xtuner.engine.checkpoints.files import load_checkpoint
from xtuner.engine.randomness import set_seed
from xtuner.engine.reference import store_reference
from xtuner.engine.run import Run
from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.log import logger, start_file, stop_file
from xtuner.model.loading import register_families
from xtuner.parallel.world import World, make_world


def measure(
    cfg: Config, checkpoint: str | None = None, work_dir: str | None = None, world: World | None = None
) -> dict[str, float]:
    """`{"loss", "perplexity"}` of `checkpoint`; also written to `<work_dir>/<timestamp>/<timestamp>.json`."""
    cfg, weights = with_weights(cfg, checkpoint)
    run = build_measurement(cfg, work_dir, world)
    if run.world.broadcast(weights is not None):
        run.backend.load_model(weights if run.world.is_first else None)
    logger.info(translate("Measuring %s"), checkpoint or translate("the base model of the config"))
    log_file = start_file(run.log_dir / f"{run.timestamp}.log") if run.world.is_first else None
    try:
        metrics = run.val_loop.run()
        count = len(run.val_loop.dataloader.dataset)
        words = "  ".join(f"{name}: {value:.4f}" for name, value in metrics.items())
        logger.info("Iter(test) [%d/%d]  %s", count, count, words)
    finally:
        if log_file is not None:
            stop_file(log_file)
    if run.world.is_first:
        path = run.log_dir / f"{run.timestamp}.json"
        path.write_text(json.dumps(metrics) + "\n", encoding="utf-8")
    return metrics


def with_weights(cfg: Config, checkpoint: str | None) -> tuple[Config, dict[str, Any] | None]:
    """The config of the model of `checkpoint`, and the weights to load into it, if any."""
    if checkpoint is None:
        return cfg, None
    folder, general = Path(checkpoint), general_config(cfg)
    model = {k: v for k, v in general.model.items() if k not in ("lora", "vision_lora", "peft_model")}
    if (folder / "adapter_config.json").is_file():
        return with_values(cfg, model=Config({**model, "peft_model": checkpoint})), None
    if (folder / "config.json").is_file():
        llm = {k: v for k, v in model["llm"].items() if k != "quantization_config"}
        llm["pretrained_model_name_or_path"] = checkpoint
        return with_values(cfg, model=Config({**model, "llm": Config(llm)})), None
    return cfg, load_checkpoint(checkpoint, check=True, with_optimizer=False)["state_dict"]


def build_measurement(cfg: Config, work_dir: str | None, world: World | None, with_data: bool = True) -> Run:
    """The parts of a run that a validation needs; without `with_data` only its model."""
    kind = "test" if cfg.get("test_dataloader") else "val"
    data, loop = f"{kind}_dataloader", f"{kind}_cfg"
    if with_data and cfg.get(data) is None:
        raise ConfigError(
            translate(
                "the config has no data to test on: give val_dataloader = dict(held_out=0.05), which "
                "holds out part of the training rows, or test_dataloader = dict(dataset=...)"
            )
        )
    for name in BUILT:
        check_names(passed_on(cfg.get(name)), name)
    build.check_folders(cfg)
    world = world or make_world()
    world.split(cfg.get("sequence_parallel_size") or 1)
    folder = Path(work_dir or cfg.get("work_dir") or Path("work_dirs") / Path(cfg.filename).stem)
    timestamp = world.broadcast_via_store(lambda: build.free_timestamp(folder))
    seed = (cfg.get("randomness") or {}).get("seed") or 0
    set_seed(seed, False)
    backend = make_backend(world, bool(cfg.get("fsdp")))
    run = Run(cfg, folder, timestamp, seed, dist.device(), Builder(), world, backend)
    register_families()
    run.val_loop = build.build_val_loop(run, data, loop) if with_data else None
    world.connect()
    world.connect_sequences()
    run.model = build.build_model(run)
    run.optim_wrapper = build.build_optim_wrapper(run)
    store_reference(run)
    return run
