"""Run the demo of vision: the two stages of a LLaVA on drawn figures.

<work dir>/base/                make_base_model, as in the other demos
           image_encoder/       make_image_encoder
           figures/             pictures of captions.json (stage 1) and questions.json (stage 2)
           held_out/            pictures of held_out.jsonl, which no training has
           demo_pretrain.py     recipes.render: stage 1, the projector
           demo_finetune.py     stage 2, the projector and the language model
           untrained/           a projector with random weights, for the answers before
           pretrain/, finetune/ xtuner train
           llava/               xtuner convert pth_to_hf --save-format huggingface
           before/, after/      xtuner mmbench --data-path held_out.jsonl
           page.html            the held-out pictures with both answers
           pretrain_loss.svg, finetune_loss.svg, demo.log
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtuner import json_lines
from xtuner.demo import figures
from xtuner.demo.losses import read_last_checkpoint
from xtuner.demo.page import Asked, write_page
from xtuner.demo.run import Demo
from xtuner.demo.wording import VISION_WORDS
from xtuner.evaluation.vision.vqa import vqa_accuracy
from xtuner.model_folder import read_json
from xtuner.recipes.render import render

if TYPE_CHECKING:
    from xtuner.demo.image_encoder import EncoderPlan

PRETRAIN = "llava_internlm2_chat_7b_clip_vit_large_p14_336_e1_gpu8_pretrain"
FINETUNE = "llava_internlm2_chat_7b_clip_vit_large_p14_336_e1_gpu8_finetune"
WANTED_ACCURACY = 0.9


@dataclass(frozen=True)
class Sizes:
    """Numbers of pictures; those of stage 1 are among those of stage 2."""

    pretrain: int = 1600
    finetune: int = 2400
    held_out: int = 100


@dataclass
class VisionDemo(Demo):
    """A run of the demo of vision."""

    sizes: Sizes = field(default_factory=Sizes)
    encoder_plan: EncoderPlan | None = None  # None: the default

    num_steps = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        self.words = {**self.words, **VISION_WORDS[self.options.lang]}
        folder = self.options.work_dir
        self.encoder, self.untrained = folder / "image_encoder", folder / "untrained"
        self.captions, self.rows = folder / "captions.json", folder / "questions.json"
        self.held_out, self.picture = folder / "held_out.jsonl", folder / "held_out" / "0000.png"
        self.pretrain_config, self.config = folder / "demo_pretrain.py", folder / "demo_finetune.py"
        self.pretrain_dir, self.train_dir = folder / "pretrain", folder / "finetune"
        self.merged, self.page = folder / "llava", folder / "page.html"
        self.pretrain_svg, self.loss_svg = folder / "pretrain_loss.svg", folder / "finetune_loss.svg"
        said = figures.SAID[self.options.lang]
        self.questions = (said.colour[0], said.shape[0])
        self.accuracies: dict[str, dict[str, float]] = {}

    def make_rows(self) -> dict[str, list[figures.Figure]]:
        """The figures of each folder of pictures."""
        rng = random.Random(self.options.seed)
        numbers = {"figures": self.sizes.finetune, "held_out": self.sizes.held_out}
        return {name: [figures.any_figure(rng) for _ in range(count)] for name, count in numbers.items()}

    def take_steps(self, rows: Any) -> tuple[list[str], list[str]]:
        """The answers about one picture before and after training; about all, in the page."""
        from xtuner.demo.image_encoder import make_image_encoder

        self.make_base()
        self.make_model(
            "encoder", lambda advance: make_image_encoder(self.encoder, self.encoder_plan, advance)
        )
        self.write_inputs(rows)
        self.write_untrained()
        untrained = [str(self.base), "--llava", str(self.untrained), "--visual-encoder", str(self.encoder)]
        before = self.ask("before", [*untrained, "--image", str(self.picture)])
        all_before = self.measure("before", untrained)
        self.train("pretrain", self.pretrain_config, self.pretrain_dir, self.pretrain_svg)
        checkpoint = str(read_last_checkpoint(self.pretrain_dir))
        self.write_config(self.config, FINETUNE, data_path=str(self.rows), pretrained_pth=checkpoint)
        self.train("finetune", self.config, self.train_dir, self.loss_svg)
        self.convert()
        after = self.ask("after", self.tuned())
        self.write_page(all_before, self.measure("after", [str(self.merged)]))
        return before, after

    def write_inputs(self, rows: Any) -> None:
        """Step 3: the pictures, what is said about them, and the config of stage 1."""
        self.announce("config", recipe=PRETRAIN)
        folder, lang, seed = self.options.work_dir, self.options.lang, self.options.seed
        start = time.perf_counter()
        files = {
            name: draw_pictures(folder, name, shown, random.Random(f"{name} {seed}"))
            for name, shown in rows.items()
        }
        shown, names, few = rows["figures"], files["figures"], self.sizes.pretrain
        captions = figures.make_captions(names[:few], shown[:few], lang, seed)
        questions = figures.make_questions(names, shown, lang, seed)
        held_out = figures.make_held_out(files["held_out"], rows["held_out"], lang, seed)
        for path, rows in ((self.captions, captions), (self.rows, questions)):
            path.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", "utf-8")
        with self.held_out.open("wb") as out:
            json_lines.append(out, held_out)
        self.write_config(self.pretrain_config, PRETRAIN, data_path=str(self.captions))
        written = (self.captions, self.rows, self.held_out, self.pretrain_config)
        self.done(", ".join(map(str, written)), time.perf_counter() - start)

    def write_config(self, path: Path, recipe: str, **settings: Any) -> None:
        text = render(
            recipe,
            lang=self.options.lang,
            llm_name_or_path=str(self.base),
            visual_encoder_name_or_path=str(self.encoder),
            image_folder=str(self.options.work_dir),
            max_length=256,
            lr=1e-3,  # for a model of 4 million parameters
            batch_size=16,
            accumulative_counts=1,
            dataloader_num_workers=0,
            SYSTEM="",
            evaluation_images=str(self.picture),
            evaluation_inputs=list(self.questions),
            **settings,
        )
        path.write_text(text, "utf-8")

    def write_untrained(self) -> None:
        """A projector with random weights that joins the two models, as a folder for --llava."""
        import torch

        from xtuner.model.vision.projector import Projector, save_projector

        sizes = [read_json(folder / "config.json")["hidden_size"] for folder in (self.encoder, self.base)]
        with torch.random.fork_rng():
            torch.manual_seed(self.options.seed)
            save_projector(Projector(*sizes), self.untrained / "projector")

    def measure(self, word: str, model: Sequence[str]) -> list[str]:
        """The answers of `xtuner mmbench MODEL` to the questions about held-out pictures."""
        folder = self.options.work_dir / word
        argv = ["mmbench", *model, "--data-path", str(self.held_out), "--work-dir", str(folder)]
        with self.spinner():
            self.command([*argv, "--instruction", "", "--max-new-tokens", "16", "--batch-size", "32"])
        newest = max(folder.glob("*/textvqa_result.json")).parent
        scores = read_json(newest / "textvqa_result.json")
        found = {category: scores[f"{category}/accuracy"] for category in figures.CATEGORIES}
        self.accuracies[word] = found
        self.done(self.words["measured"].format(**found))
        lines = json_lines.read(newest / "answers.jsonl")
        return [line.get("prediction", "") for line in sorted(lines, key=lambda line: line["index"])]

    def convert(self) -> None:
        """Step 7: checkpoint to one folder, with the encoder, the projector and the language model."""
        self.announce("convert")
        checkpoint = read_last_checkpoint(self.train_dir)
        start = time.perf_counter()
        argv = ["convert", "pth_to_hf", str(self.config), str(checkpoint), str(self.merged)]
        with self.spinner():
            self.command([*argv, "--save-format", "huggingface"])
        self.done(str(self.merged), time.perf_counter() - start)

    def write_page(self, before: Sequence[str], after: Sequence[str]) -> None:
        rows = json_lines.read(self.held_out)
        asked = [
            Asked(
                picture=self.options.work_dir / row["image"],
                question=row["question"],
                right=row["answers"][0],
                before=first,
                after=then,
                is_right=vqa_accuracy(then, row["answers"]) == 1,
            )
            for row, first, then in zip(rows, before, after, strict=True)
        ]
        write_page(self.page, asked, self.accuracies, self.words, self.options.lang)

    def has_learnt(self, answers: Sequence[str]) -> bool:
        return min(self.accuracies["after"].values()) >= WANTED_ACCURACY

    def found(self) -> dict[str, Any]:
        before, after = self.accuracies["before"], self.accuracies["after"]
        return {
            "count": self.sizes.held_out,
            **after,
            **{f"{category}_before": value for category, value in before.items()},
        }

    def tuned(self) -> list[str]:
        return [str(self.merged), "--image", str(self.picture)]

    def files(self) -> dict[str, Path]:
        return {
            "file_page": self.page,
            "file_base": self.base,
            "file_encoder": self.encoder,
            "file_captions": self.captions,
            "file_rows": self.rows,
            "file_pretrain": self.pretrain_config,
            "file_finetune": self.config,
            "file_merged": self.merged,
            "file_loss": self.loss_svg,
        }


def draw_pictures(folder: Path, name: str, shown: Sequence[figures.Figure], rng: random.Random) -> list[str]:
    """The names below `folder` of a new picture for each figure."""
    (folder / name).mkdir(exist_ok=True)
    files = [f"{name}/{number:04}.png" for number in range(len(shown))]
    for file, figure in zip(files, shown, strict=True):
        figures.draw(figure, rng).save(folder / file)
    return files
