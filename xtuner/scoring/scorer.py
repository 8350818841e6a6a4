"""Numbers of a model for sequence classification for texts, the same for each text alone and in a batch.

dialogue --chat template--> ids, cut at the model's context --+ reward token--> model --> logits [labels]

The reward token of a model is the one that ended the samples of its training: config.json has it, or
xtuner_config.py beside the model or the adapter.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from xtuner import dist, loadable
from xtuner.dataset.encoding.conversations import InvalidRowError, plan_conversations
from xtuner.errors import DataError, ModelError
from xtuner.language import translate
from xtuner.loadable import LABELS_FILE
from xtuner.log import logger, say_once
from xtuner.model import loading
from xtuner.model.base import base_model, device_of, resize_embeddings
from xtuner.model.classifier import NUMBER
from xtuner.model.lora import attach_adapter, check_adapter_folder, read_adapter
from xtuner.model.quantization import (
    bitsandbytes_config,
    check_bits,
    keep_4bit_weights_unpacked,
    set_fields_for_quantized,
)
from xtuner.model.quiet import silence_known_warnings
from xtuner.model.scoring import HEADS, name_labels, without_heads
from xtuner.model.tokenizer import load_tokenizer
from xtuner.model_folder import check_model_folder, has_tokenizer, read_json, with_base
from xtuner.scoring.rows import Dialogue

REWARD_TOKEN = "reward_token_id"
_RUN_CONFIG = "xtuner_config.py"
_T = TypeVar("_T")


class Scorer:
    """A model for sequence classification and its tokenizer."""

    def __init__(
        self, model: Any, tokenizer: Any, reward_token: int | None = None, max_length: int | None = None
    ) -> None:
        self.model, self.tokenizer, self.reward_token = model, tokenizer, reward_token
        config = base_model(model).config
        self.max_length = max_length or getattr(config.get_text_config(), "max_position_embeddings", None)
        self.labels: list[str] = [config.id2label[number] for number in range(config.num_labels)]
        kind = getattr(config, "problem_type", None)
        self.problem_type = kind or (NUMBER if len(self.labels) == 1 else None)

    def encode(self, text: str | Dialogue) -> tuple[list[int], bool]:
        """The ids of a text as training encodes it, and whether it was cut; DataError if it has none."""
        if isinstance(text, str):
            ids = list(self.tokenizer(text)["input_ids"])
        elif not getattr(self.tokenizer, "chat_template", None):
            what = (
                "the tokenizer of the model has no chat template, so only rows with a 'text' can be scored: "
                "put chat_template.jinja into its folder"
            )
            raise ModelError(translate(what))
        else:
            try:
                planned = plan_conversations([[text]], self.tokenizer, keep_thinking=True)
                ids = planned.samples(planned.tokenise()).ids.tolist()
            except InvalidRowError as error:
                raise DataError(str(error)) from None
        if not ids:
            raise DataError(translate("the text is empty: there is nothing to score"))
        is_cut = self.max_length is not None and len(ids) > self.max_length
        ids = ids[: self.max_length]
        if self.reward_token is None:
            return ids, is_cut
        # Where the length is full, the token takes the position of the last one, as in training.
        return [*(ids[:-1] if len(ids) == self.max_length else ids), self.reward_token], is_cut

    @torch.no_grad()
    def logits(self, samples: Sequence[Sequence[int]], batch_size: int = 8) -> Tensor:
        """The head's numbers `[samples, labels]`, fp32 on the CPU; samples of similar length run together."""
        found = torch.zeros(len(samples), len(self.labels))
        order = sorted(range(len(samples)), key=lambda number: len(samples[number]), reverse=True)
        for start in range(0, len(order), batch_size):
            numbers = order[start : start + batch_size]
            found[numbers] = self._run([samples[number] for number in numbers])
        if not found.isfinite().all():
            raise ModelError(translate("the model's logits are not finite: load it in bf16 or fp32"))
        return found

    def scores(self, dialogues: Sequence[str | Dialogue]) -> list[float]:
        """The reward of each dialogue or text."""
        encoded = [self.encode(dialogue) for dialogue in dialogues]
        if any(is_cut for _, is_cut in encoded):
            say_once(
                "dialogues are longer than the {length} tokens that the reward model reads: what they say "
                "beyond is not scored",
                length=self.max_length,
            )
        return self.logits([ids for ids, _ in encoded])[:, 0].tolist()

    def _run(self, samples: Sequence[Sequence[int]]) -> Tensor:
        config = base_model(self.model).config.get_text_config()
        given = config.pad_token_id
        # transformers reads the score at the last token that is not padding.
        last = {sample[-1] for sample in samples}
        filler = (
            next(token for token in range(len(last) + 1) if token not in last) if given is None else given
        )
        longest = max(map(len, samples))
        device = device_of(self.model)
        ids = torch.tensor([[*sample, *[filler] * (longest - len(sample))] for sample in samples])
        mask = torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in samples])
        try:
            config.pad_token_id = filler
            logits = self.model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
        finally:
            config.pad_token_id = given
        return logits.float().cpu()


def load_scorer(
    path: str | Path,
    *,
    adapter: str | Path | None = None,
    dtype: Any = "auto",
    max_length: int | None = None,
    trust_remote_code: bool = False,
    is_reward: bool = False,
    bits: int | None = None,
) -> Scorer:
    """The model in `path`, with `adapter` on it, and its tokenizer; ModelError if it scores no texts.

    `path` may be an adapter alone, which names its base. With `is_reward` it must give one number for a text.
    `bits`: None, 8 or 4; an adapter of QLoRA has the numbers of its training on a base in 4 bits.
    """
    from transformers import AutoModelForSequenceClassification

    if adapter is None:
        path, adapter = with_base(path)
    check_scores(path, adapter)
    loading.register_families()
    silence_known_warnings()
    brings = adapter is not None and has_tokenizer(Path(adapter))
    tokenizer = load_tokenizer(str(adapter) if brings else path, trust_remote_code=trust_remote_code)
    config = loading.load_config(path, trust_remote_code=trust_remote_code)
    weights = None if adapter is None else read_adapter(Path(adapter))
    if weights is not None:
        config.num_labels = _num_labels(weights, config.num_labels)
        _name_labels(config, Path(adapter))  # type: ignore[arg-type]
    if is_reward and config.num_labels != 1:
        what = "{path} is a classifier of {count} labels, not a reward model, which gives one number"
        raise ModelError(translate(what, path=adapter or path, count=config.num_labels))
    device = dist.device()
    wanted = loading.as_dtype(dtype) or loading.as_dtype(getattr(config, "dtype", None)) or torch.float32
    precision = loading.compute_dtype(wanted, device)
    kwargs = {
        "pretrained_model_name_or_path": str(path),
        "config": config,
        "torch_dtype": precision,
        "trust_remote_code": trust_remote_code and not loading.is_native(config),
        **_quantization(bits, precision, config, device),
    }
    logger.info(translate("Load the model that scores from {path}", path=path))
    model: Any = loading.call_loader(AutoModelForSequenceClassification.from_pretrained, kwargs, str(path))
    # Repacked weights have scales of 16 bits, and so another score than training had.
    keep_4bit_weights_unpacked(model)
    if adapter is not None:
        if brings:
            resize_embeddings(model, tokenizer)
        model = attach_adapter(model, adapter, weights=weights)
        logger.info(translate("Load adapter from {adapter}", adapter=adapter))
    folders = [Path(folder) for folder in (adapter, path) if folder is not None]
    # Quantised layers are there already, and some may not be moved.
    model = model if bits else model.to(device)
    return Scorer(model.eval(), tokenizer, reward_token_of(folders), max_length)


def _quantization(bits: int | None, dtype: torch.dtype, config: Any, device: torch.device) -> dict[str, Any]:
    """The arguments of `from_pretrained` for a model in `bits`, but for its head."""
    quantization = bitsandbytes_config(bits, dtype, config)
    check_bits(quantization, config, device.type)
    if quantization is None:
        return {}
    set_fields_for_quantized(config)
    return {"quantization_config": without_heads(quantization), "device_map": {"": device}}


def check_scores(path: str | Path, adapter: str | Path | None = None) -> None:
    """Raise NotFoundError or ModelError if the model in `path`, with `adapter`, is none that scores texts."""
    check_model_folder(path)
    if adapter is not None:
        check_adapter_folder(adapter)
        task = read_json(Path(adapter) / "adapter_config.json").get("task_type")
        if task != "SEQ_CLS":
            what = (
                "The adapter {adapter} is of the kind {kind}, not SEQ_CLS: it gives no scores; name that of "
                "a reward model or a classifier"
            )
            raise ModelError(translate(what, adapter=adapter, kind=task))
        return
    file = Path(path) / "config.json"
    if not file.is_file():
        return
    config = read_json(file)
    if not loadable.is_classifier(config):
        names = config.get("architectures") or [config.get("model_type")]
        what = (
            "{path} is a {kind}, which gives no scores: name a model for sequence classification, such as a "
            "reward model that xtuner convert pth_to_hf wrote (its adapter: --adapter)"
        )
        raise ModelError(translate(what, path=path, kind=names[0]))


def _num_labels(weights: Mapping[str, Tensor], given: int) -> int:
    """The number of labels of the head in an adapter."""
    heads = [w for name, w in weights.items() if name.endswith(tuple(f"{head}.weight" for head in HEADS))]
    return int(heads[0].shape[0]) if heads else given


def _name_labels(config: Any, adapter: Path) -> None:
    """Set the names of the labels and the kind of problem of an adapter, which its base does not know."""
    file = adapter / LABELS_FILE
    if not file.is_file():
        return
    names = json.loads(file.read_text(encoding="utf-8"))
    if len(names) == config.num_labels:
        name_labels(config, names)
    config.problem_type = _from_run(adapter / _RUN_CONFIG, "problem_type", str)


def reward_token_of(folders: Sequence[Path]) -> int | None:
    """The token that ends samples of the model, by the first of `folders` that says; None without one."""
    for folder in folders:
        file, run = folder / "config.json", folder / _RUN_CONFIG
        if file.is_file() and isinstance(found := read_json(file).get(REWARD_TOKEN), int):
            return found if found >= 0 else None
        if (found := _from_run(run, REWARD_TOKEN, int)) is not None:
            return found if found >= 0 else None
    return None


def _from_run(path: Path, name: str, kind: type[_T]) -> _T | None:
    """The value of `name` in a run's config, which may come from anywhere: it is parsed, not executed."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, SyntaxError, ValueError):
        return None
    assigned = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    given = [assigned[name]] if name in assigned else []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            given += [keyword.value for keyword in node.keywords if keyword.arg == name]
    for value in given:
        value = assigned.get(value.id, value) if isinstance(value, ast.Name) else value
        try:
            found = ast.literal_eval(value)
        except ValueError:
            continue
        if isinstance(found, kind):
            return found
    return None
