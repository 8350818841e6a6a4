"""Run the demo of preferences: DPO on pairs of polite and rude answers.

<work dir>/base/            make_base_model, as in the other demo
           pairs.jsonl      200 pairs of `make_pairs`; held_out.jsonl: 50 others
           demo_dpo.py      xtuner new-cfg --method dpo_lora, and the held-out pairs as validation data
           dpo/             xtuner train demo_dpo.py --work-dir dpo
           dpo_adapter/     xtuner convert pth_to_hf
           polite/          xtuner convert merge
           dpo_loss.svg, demo.log
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtuner.demo.politeness import QUESTIONS, Row, is_polite, make_pairs
from xtuner.demo.run import Demo
from xtuner.demo.wording import PREFERENCE_WORDS
from xtuner.work_dir import read_run, run_names

WANTED_ACCURACY = 0.95
EPOCHS = 2
VALIDATION = """
# other pairs, to see whether the model prefers polite answers in general
val_dataloader = dict(dataset=dict(train_dataset, dataset=dict(type=load_dataset, path={path!r})))
"""


@dataclass
class PreferenceDemo(Demo):
    """A run of the demo of preferences."""

    questions = QUESTIONS

    def __post_init__(self) -> None:
        super().__post_init__()
        self.words = {**self.words, **PREFERENCE_WORDS[self.options.lang]}
        folder = self.options.work_dir
        self.train_dir, self.adapter, self.merged = folder / "dpo", folder / "dpo_adapter", folder / "polite"
        self.rows, self.held_out = folder / "pairs.jsonl", folder / "held_out.jsonl"
        self.config, self.loss_svg = folder / "demo_dpo.py", folder / "dpo_loss.svg"
        # A rate for a model of 4 million parameters; the supervised term keeps it at whole answers.
        self.train_options = [
            "--cfg-options",
            "lr=2e-3",
            f"max_epochs={self.options.max_epochs}",
            "model.rpo_alpha=1.0",
        ]

    def make_rows(self) -> tuple[list[Row], list[Row]]:
        return make_pairs()

    def write_inputs(self, rows: Any) -> None:
        """Step 3: the pairs, and the config that new-cfg proposes."""
        self.announce("config")
        for path, pairs in zip((self.rows, self.held_out), rows, strict=True):
            path.write_text("".join(json.dumps(p, ensure_ascii=False) + "\n" for p in pairs), "utf-8")
        named = ("--model", self.base), ("--data", self.rows), ("--out", self.config)
        paths = [word for name, path in named for word in (name, str(path))]
        self.command(["new-cfg", "--method", "dpo_lora", *paths, "--force", "--lang", self.options.lang])
        with self.config.open("a", encoding="utf-8") as config:
            config.write(VALIDATION.format(path=str(self.held_out)))
        self.done(f"{self.rows}, {self.held_out}, {self.config}")

    def has_learnt(self, answers: Sequence[str]) -> bool:
        return self.found()["accuracy"] > WANTED_ACCURACY and all(map(is_polite, answers))

    def found(self) -> dict[str, Any]:
        return {"accuracy": read_accuracy(self.train_dir)}


def read_accuracy(train_dir: Path) -> float:
    """The fraction of held-out pairs whose polite answer wins at the end of the newest run in `train_dir`."""
    return read_run(train_dir, run_names(train_dir)[0]).curves["val/reward_acc"][-1][1]
