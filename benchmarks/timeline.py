"""The end time and loss of each update of a training, measured alike for every program.

    marks [{"time": 12.31, "tokens": 1021, "trained": 840, "loss": 10.4}, ...]

`tokens` counts what is read, without padding; `trained` the labels.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

IGNORE = -100


class Timeline:
    """The updates of one training in the order in which they ended."""

    def __init__(self, device: str = "cpu", pad: int | None = None) -> None:
        self.device, self.pad = device, pad
        self.marks: list[dict[str, float]] = []
        self.tokens = self.trained = 0

    def see(self, ids: Any, labels: Any, mask: Any = None) -> None:
        """Count a batch of the current update."""
        if mask is not None and mask.dim() == 2:
            self.tokens += int(mask.sum())
        else:
            self.tokens += ids.numel() if self.pad is None else int((ids != self.pad).sum())
        self.trained += int((labels != IGNORE).sum())

    def end(self, loss: float | None = None) -> None:
        """End the update."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
        now = time.perf_counter()
        self.marks.append({"time": now, "tokens": self.tokens, "trained": self.trained, "loss": loss})
        self.tokens = self.trained = 0

    def result(self, **more: Any) -> dict[str, Any]:
        """The result of a case; `memory_mb` is the peak of the process or its GPU."""
        unit = 1 if sys.platform == "darwin" else 1024
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        if self.device == "cuda":
            import torch

            memory = torch.cuda.max_memory_allocated()
        return {"marks": self.marks, "memory_mb": memory / 2**20, **more}


class TimelineHook:
    """Fills a timeline as a hook of XTuner and writes it to `path` at the end."""

    priority = "LOWEST"

    def __init__(self, path: str, device: str = "cpu") -> None:
        self.path, self.timeline = path, Timeline(device)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any, outputs: Any) -> None:
        data = data_batch["data"]
        self.timeline.see(data["input_ids"], data["labels"], data.get("attention_mask"))
        self.timeline.end(float(outputs["loss"]))

    def after_run(self, runner: Any) -> None:
        with open(self.path, "w", encoding="utf-8") as file:
            json.dump(self.timeline.result(), file)


def trainer_callback(timeline: Timeline) -> Any:
    """A callback that fills a timeline in transformers' Trainer and programs built on it."""
    import torch
    from transformers import TrainerCallback

    class Callback(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any):
            def look(_module: Any, _args: Any, inputs: dict[str, Any]) -> None:
                # Of methods with a reference only what is trained on counts.
                if torch.is_grad_enabled():
                    timeline.see(inputs["input_ids"], inputs.get("labels", inputs["input_ids"]))

            model.register_forward_pre_hook(look, with_kwargs=True)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any):
            timeline.end()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any):
            if logs and "loss" in logs:
                timeline.marks[-1]["loss"] = float(logs["loss"])

    return Callback()
