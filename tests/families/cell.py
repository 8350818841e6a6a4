"""One cell of the matrix: a tiny model of a family through every command, each step against stock code.

    new-cfg   a config for the folder and the rows, which `train` finds no error in
    train     two updates over packed samples
    loss      of the first update, against stock transformers on each sample alone
    convert   pth_to_hf, loaded by stock transformers and peft: the logits of the trained model
    merge     an adapter into its base: the logits of base and adapter
    gguf      where the family has a form of llama.cpp
    chat      four tokens, those of stock transformers' own greedy search

A step that fails is kept with its reason, and the steps that need it are left out.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.families.configs import make_model
from xtuner import cli, log
from xtuner.estimate import machine
from xtuner.families import FAMILIES, UNKNOWN

METHODS = ("full", "lora", "qlora")
PRECISIONS = ("fp32", "bf16")
ROWS = [{"instruction": f"who are you {i}", "output": f"I am a small model {i}"} for i in range(6)]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Two updates at a rate that changes the logits by more than rounding does; the run keeps the loss of each.
OPTIONS = ["lr=0.01", "max_epochs=2", "train_cfg.spike_ratio=1e6"]
OPTIONS += ["evaluation_inputs=['who are you']", "custom_hooks.1.max_new_tokens=2"]
# In 16 bits layers are recomputed too, so that this is tried of every family.
RECOMPUTE = {"fp32": [], "bf16": ["model.use_activation_checkpointing=True"]}
# Relative errors that rounding explains: of the loss and the norm of its gradients, and of logits.
LOSS = {"fp32": (1e-5, 1e-3), "bf16": (0.03, 0.2)}
LOGITS = {"fp32": 1e-4, "bf16": 0.1}


@dataclass
class Outcome:
    """The outcome of each step: "" or the reason of its failure; missing steps were not reached."""

    packed: bool = True
    steps: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Record the outcome of the block as the step `name`; nothing is raised."""
        start = time.process_time()
        try:
            yield
            self.steps.setdefault(name, "")
        except (Exception, SystemExit) as error:
            self.steps[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]
        self.seconds[name] = time.process_time() - start

    def passed(self, *names: str) -> bool:
        """Whether these steps were reached and did not fail."""
        return all(self.steps.get(name) == "" for name in names)


def make_folders(family: str, tokenizer: Any, folder: Path) -> None:
    """Write the model's folders `fp32` and `bf16`, and the rows, to `folder`."""
    model = make_model(family)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        model_folder = folder / name
        model.to(dtype).save_pretrained(model_folder)
        tokenizer.save_pretrained(model_folder)
    (folder / "rows.json").write_text(json.dumps(ROWS), encoding="utf-8")


def run_cell(family: str, method: str, precision: str, folder: Path, patch: pytest.MonkeyPatch) -> Outcome:
    """Run every step of one cell in `folder`, after `make_folders`."""
    # On CPUs with AVX512_BF16 bitsandbytes would repack weights, with scales of 16 bits.
    patch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
    patch.chdir(folder)
    patch.setattr(log, "_said", set())
    patch.setattr("xtuner.engine.hooks.evaluate_chat.TOKENS_BEFORE_TRAINING", 2)
    for module in ("xtuner.model.loading", "xtuner.estimate.machine"):
        patch.setattr(f"{module}.cpu_computes_in_bf16", lambda: precision == "bf16")
    machine.find_machine.cache_clear()
    cell = Cell(family, method, precision, folder / precision, folder / f"{method}_{precision}")
    cell.work.mkdir()
    cell.run(patch)
    machine.find_machine.cache_clear()
    gc.collect()
    return cell.outcome


@dataclass
class Cell:
    """One family, method and precision, with the outcome."""

    family: str
    method: str
    precision: str
    model: Path
    work: Path
    outcome: Outcome = field(default_factory=Outcome)

    def run(self, patch: pytest.MonkeyPatch) -> None:
        """All steps in order."""
        outcome = self.outcome
        with outcome.step("new-cfg"):
            words = ["--model", self.model, "--data", "rows.json", "--method", self.method]
            command("new-cfg", *words, "--out", self.config)
        if not outcome.passed("new-cfg"):
            return
        run = self.train(patch)
        if not outcome.passed("train"):
            return
        with outcome.step("loss"):
            self.check_loss(run)
        with outcome.step("convert"):
            self.check_convert(run.model.llm)
        if self.method != "full" and outcome.passed("convert"):
            with outcome.step("merge"):
                self.check_merge()
        if outcome.passed("convert") and self.has_gguf:
            with outcome.step("gguf"):
                command("convert", "gguf", self.out, self.work / "out.gguf")
        if outcome.passed("convert"):
            with outcome.step("chat"):
                self.check_chat()

    @property
    def has_gguf(self) -> bool:
        """Whether a file for llama.cpp is written of this cell: once for a family that has its form."""
        known = FAMILIES.get(self.family, UNKNOWN)
        return known.gguf is not None and (self.method, self.precision) == ("full", "fp32")

    @property
    def config(self) -> Path:
        return self.work / "my.py"

    @property
    def out(self) -> Path:
        return self.work / "out"

    def train(self, patch: pytest.MonkeyPatch) -> Any:
        """The run that `xtuner train` makes of the config."""
        runs = runs_of(patch)
        with self.outcome.step("train"):
            words = [self.config, "--work-dir", self.work, "--seed", 0]
            command("train", *words, "--cfg-options", *OPTIONS, *RECOMPUTE[self.precision])
        self.outcome.packed = not any("mix packed samples" in str(key) for key in log._said)
        return runs[-1] if runs else None

    def check_loss(self, run: Any) -> None:
        """Assert that the first update is stock transformers' step over all samples."""
        first, *_ = run.update_losses
        assert all(math.isfinite(loss) for loss in run.update_losses), run.update_losses
        lines = map(json.loads, (run.log_dir / "vis_data" / "scalars.json").read_text().splitlines())
        norm = next(line["grad_norm"] for line in lines if "grad_norm" in line)
        whole = self.method == "full"
        loss, stock_norm = stock_step(self.base(), samples(run.train_dataloader.dataset), whole)
        bound, norm_bound = LOSS[self.precision]
        assert abs(first - loss) <= bound * loss, f"loss {first}, stock {loss}"
        assert not whole or abs(norm - stock_norm) <= norm_bound * stock_norm, f"{norm=}, {stock_norm=}"

    def base(self) -> Any:
        """The model that was trained, as it was before, by stock code in fp32."""
        whole = FAMILIES.get(self.family, UNKNOWN).weights_read
        return stock_model(self.model, bits=4 if self.method == "qlora" else None, whole=whole)

    def check_convert(self, model: Any) -> None:
        """Assert that the converted folder answers like the trained `model`, and not like the base."""
        trained = logits(model)
        checkpoint = max(self.work.glob("iter_*.pth"), key=lambda path: path.stat().st_mtime)
        exact = ["--fp32"] * (self.precision == "fp32")
        command("convert", "pth_to_hf", self.config, checkpoint, self.out, *exact)
        base = self.base()
        before = logits(base)
        loaded = logits(with_adapter(base, self.out) if self.method != "full" else self.converted())
        assert_near(loaded, trained, LOGITS[self.precision], "the converted model's logits")
        assert relative(trained, before) > 1e-3, "training changed nothing"

    def converted(self) -> Any:
        return stock_model(self.out)

    def check_merge(self) -> None:
        """Assert that the merged model answers like base and adapter."""
        merged = self.work / "merged"
        command("convert", "merge", self.model, self.out, merged)
        beside = logits(with_adapter(stock_model(self.model), self.out))
        assert_near(logits(stock_model(merged)), beside, LOGITS[self.precision], "merged logits")

    def check_chat(self) -> None:
        """Assert that chat's greedy answer equals that of stock transformers."""
        from xtuner.chat.session import make_session
        from xtuner.generation.generate import complete
        from xtuner.generation.limits import end_ids
        from xtuner.model.loading import load_for_chat
        from xtuner.utils import PROMPT_TEMPLATE

        adapter = self.out if self.method != "full" else None
        bits = 4 if self.method == "qlora" else None
        folder = self.model if adapter else self.out
        model, tokenizer = load_for_chat(folder, adapter=adapter, dtype=self.precision, bits=bits)
        prompt = make_session(tokenizer, PROMPT_TEMPLATE.auto).ask("who are you", 4)
        answer = complete(model, tokenizer, prompt, max_new_tokens=4, temperature=0).ids
        stock = with_adapter(self.base(), self.out) if adapter else self.converted()
        ends = sorted(end_ids(model, tokenizer))
        found = stock.generate(torch.tensor([prompt]), max_new_tokens=4, do_sample=False, eos_token_id=ends)
        wanted = found[0, len(prompt) :].tolist()
        if self.precision == "fp32":
            assert answer == wanted, f"{answer}, stock {wanted}"
        assert len(answer) == 4 or answer[-1] in ends


def command(*words: Any) -> None:
    """Run `xtuner WORDS`; its errors are raised."""
    assert cli.main([*map(str, words), "--debug"]) == 0


def runs_of(patch: pytest.MonkeyPatch) -> list[Any]:
    """A list to which every run is added that is built from now on."""
    from xtuner.engine import build

    runs, build_run = [], build.build_run

    def keep(*args: Any, **kwargs: Any) -> Any:
        runs.append(build_run(*args, **kwargs))
        return runs[-1]

    patch.setattr(build, "build_run", keep)
    return runs


def stock_model(folder: Path, bits: int | None = None, whole: tuple[str, ...] = ()) -> Any:
    """The model of `folder` by transformers alone, in fp32; all its weights are in the files.

    `whole`: layers that are not quantised.
    """
    import transformers
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = json.loads((folder / "config.json").read_text())
    (name,), family = config["architectures"], config["model_type"]
    kind: Any = getattr(transformers, name, AutoModelForCausalLM)  # InternLM's are not transformers' own
    fields = FAMILIES[family].when_quantized if bits and family in FAMILIES else {}
    quantized = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_compute_dtype=torch.float32,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_quant_type="nf4",
        llm_int8_skip_modules=["lm_head", *whole] if whole else None,
    )
    model, info = kind.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation="eager",
        quantization_config=quantized if bits else None,
        output_loading_info=True,
        **fields,
    )
    assert not any(info.values()), info
    return model.eval()


def with_adapter(model: Any, folder: Path) -> Any:
    """`model` with the adapter of `folder`, by peft alone."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(folder)).eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    """Of one prompt of twenty tokens."""
    return model.eval()(input_ids=torch.arange(5, 205, 10)[None], use_cache=False).logits.float()


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The error of the median token: of single ones a router may choose another expert for rounding alone."""
    return ((found - wanted).norm(dim=-1) / wanted.norm(dim=-1)).median().item()


def assert_near(found: torch.Tensor, wanted: torch.Tensor, bound: float, what: str) -> None:
    error = relative(found, wanted)
    assert error <= bound, f"{what} differ by {error:.2g} of their size"


def samples(dataset: Any) -> list[tuple[list[int], list[int]]]:
    """(input_ids, labels) of each sample of a data set, packed or not."""
    found = []
    for item in dataset:
        ids, labels = list(item["input_ids"]), list(item["labels"])
        boundaries = item.get("cumulative_len", [0, len(ids)])
        found += [(ids[a:b], labels[a:b]) for a, b in itertools.pairwise(map(int, boundaries)) if b > a]
    assert len(found) == len(ROWS), len(found)
    return found


def stock_step(model: Any, rows: list[tuple[list[int], list[int]]], backward: bool) -> tuple[float, float]:
    """Mean cross entropy over the trained tokens of `rows`, each put to `model` alone; gradients' norm."""
    count = sum(label != -100 for _, labels in rows for label in labels[1:])
    total = 0.0
    for ids, labels in rows:
        with torch.set_grad_enabled(backward):
            scores = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
            loss = cross_entropy(scores.float(), torch.tensor(labels[1:]), reduction="sum") / count
        if backward:
            loss.backward()
        total += loss.item()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return total, torch.nn.utils.get_total_norm(grads).item()
