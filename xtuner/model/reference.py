"""The model that a method on preferences compares the trained one with.

AdapterOff         the trained model without its adapter      no second copy of any weight
ReferenceModel     a model of its own, frozen                 the model before training, or a given one
stored log-probs   of each sample, computed once by one of these      nothing held, nothing run in a step
ReferencedModel    a method that has one of the three
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xtuner.errors import ConfigError, XTunerError
from xtuner.language import translate
from xtuner.log import say_once
from xtuner.model import loading, mapped
from xtuner.model.base import base_model
from xtuner.model.language_model import PackedLanguageModel
from xtuner.model.packed import Packed
from xtuner.model.pairs import Answers, answers_of, lengths_of
from xtuner.model.passes import Pass
from xtuner.model.sft import SupervisedFinetune
from xtuner.model.tokenizer import load_tokenizer
from xtuner.model_folder import has_tokenizer

_RANDOM = re.compile(r"drop|jitter|noise")
# Of a model's configuration: what changes no number.
_NO_SETTINGS = {"_name_or_path", "transformers_version", "use_cache"}


class AdapterOff:
    """The base of a model with an adapter, without a second copy of any weight."""

    def __init__(self, llm: Any, uses_adapter: bool = True) -> None:
        self._llm, self._uses_adapter = llm, uses_adapter

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """A context in which the model runs as the reference: without adapter, dropout, noise and gradients.

        All other code is the same as in training, so that rounding cannot look like a preference.
        """
        was_training = [module.training for module in self._random_modules]
        off = self._llm.disable_adapter() if self._uses_adapter else contextlib.nullcontext()
        with torch.no_grad(), off:
            for module in self._random_modules:
                module.training = False
            try:
                yield
            finally:
                for module, training in zip(self._random_modules, was_training, strict=True):
                    module.training = training

    @functools.cached_property
    def _random_modules(self) -> list[nn.Module]:
        # NEFTune adds its noise after the embedding.
        return [*_random_modules(self._llm), self._llm.get_input_embeddings()]


class ReferenceModel(SupervisedFinetune):
    """A frozen language model without dropout, which no checkpoint holds.

    It is a module inside the trained one, so that a backend divides its weights too.
    """

    def __init__(self, llm: nn.Module) -> None:
        super().__init__(llm, use_activation_checkpointing=False)
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> ReferenceModel:
        """Run by the code that trains where `mode` says so, as the trained model does, but for dropout."""
        super().train(mode)
        for module in _random_modules(self.llm):
            module.training = False
        return self

    def outputs_of(self, packed: Packed, data: dict[str, Any], mode: str) -> Any:
        """As every language model's; in mode "reference" the log-probability of each sample."""
        if mode != "reference":
            return super().outputs_of(packed, data, mode)
        with torch.no_grad():
            return answers_of(self, packed).logprobs

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Nothing: its weights are those of the model that it was made from."""
        return kwargs.get("destination") or {}


class ReferencedModel(PackedLanguageModel):
    """A language model that is compared with a reference."""

    unbuilt = frozenset({"llm", "ref_llm"})
    reference: ReferenceModel | None

    def keep_reference(
        self,
        llm: Mapping[str, Any] | nn.Module,
        ref_llm: Mapping[str, Any] | nn.Module | None,
        peft_model: str | None,
        tokenizer: Any,
        max_position_embeddings: int | None,
        stored: bool = False,
    ) -> None:
        """Take `ref_llm` as the reference; None: the model without its adapter, without one a frozen copy.

        `stored`: batches bring its log-probabilities along, which it computes before the first update.
        """
        self.reference = None
        self.stores_reference = stored
        if ref_llm is not None:
            _log_own_reference(llm, ref_llm)
            self.reference = given_model(ref_llm, self.llm)
        elif not self.uses_adapter and not stored:
            self.reference = frozen_copy(llm, self.llm, tokenizer, max_position_embeddings)
        elif peft_model:
            say_once(
                "The reference is the base model without the adapter model.peft_model = {path!r}: to stay "
                "near that one, merge it into its base and train a new adapter",
                path=peft_model,
            )
        self._adapter_off = AdapterOff(self.llm, self.uses_adapter)

    def outputs_of(self, packed: Packed, data: dict[str, Any], mode: str) -> Any:
        """As every language model's; in mode "reference" the log-probability of each sample by it."""
        if mode != "reference":
            return super().outputs_of(packed, data, mode)
        return self._run_reference(packed, self.passes_of(packed, with_loss=True)).logprobs

    def reference_answers(self, packed: Packed, todo: Sequence[Pass]) -> Answers:
        """The samples' log-probabilities by the reference; `todo`: the passes of the trained model."""
        if not self.stores_reference:
            return self._run_reference(packed, todo)
        if packed.reference is None:
            what = (
                "model.stored_reference: the batch has no reference_logprobs; the dataset must be one of "
                "build_preference_dataset or build_unpaired_dataset, with the collate_fn that belongs to it"
            )
            raise ConfigError(translate(what))
        dtype = torch.promote_types(torch.float32, self.llm.dtype)
        logprobs = torch.from_numpy(packed.reference).to(dtype).to(self.device)
        return Answers(logprobs, lengths_of(packed, logprobs))

    def _run_reference(self, packed: Packed, todo: Sequence[Pass]) -> Answers:
        if self.reference is None:
            with self._adapter_off.active():
                return answers_of(self, packed, todo)
        with torch.no_grad():
            return answers_of(self.reference, packed)

    def reference_key(self) -> str:
        """A hash of the weights and the configuration of the reference, before training changes any."""
        if self.reference is not None:
            return hash_of(self.reference.llm)
        trained = {name for name, p in self.llm.named_parameters() if p.requires_grad}
        return hash_of(self.llm, trained if self.uses_adapter else ())

    def parts(self) -> Mapping[str, nn.Module]:
        return {"llm": self.llm, **({"reference": self.reference.llm} if self.reference else {})}

    def enable_sequence_parallel(self, group: Any) -> None:
        super().enable_sequence_parallel(group)
        if self.reference:
            self.reference.enable_sequence_parallel(group)

    def use_plain_layers(self) -> None:
        super().use_plain_layers()
        if self.reference:
            self.reference.use_plain_layers()


def hash_of(llm: Any, without: Collection[str] = ()) -> str:
    """A hash of the weights of `llm`, but for those with the names `without`, and of its configuration."""
    config = {k: v for k, v in base_model(llm).config.to_dict().items() if k not in _NO_SETTINGS}
    state = {name: t for name, t in llm.state_dict().items() if name not in without}
    tensors = [(name, t) for name, t in state.items() if isinstance(t, Tensor)]
    digest = hashlib.blake2b(json.dumps(config, sort_keys=True, default=str).encode(), digest_size=16)
    with ThreadPoolExecutor() as pool:
        for (name, tensor), found in zip(tensors, pool.map(_hash_of_tensor, tensors), strict=True):
            digest.update(f"{name} {tuple(tensor.shape)} {mapped.wanted_dtype(tensor)} {found}".encode())
    return digest.hexdigest()


def _hash_of_tensor(named: tuple[str, Tensor]) -> str:
    flat = named[1].detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.blake2b(memoryview(flat.numpy()), digest_size=16).hexdigest()


def frozen_copy(
    llm_cfg: Mapping[str, Any] | nn.Module, llm: Any, tokenizer: Any, max_position_embeddings: int | None
) -> ReferenceModel:
    """The model that `llm_cfg` describes as it is before training; `llm` is the same, already loaded."""
    if isinstance(llm_cfg, Mapping) and llm_cfg.get("pretrained_model_name_or_path"):
        # Read once more: weights may still be in their files, and a copy would be whole on every process.
        cfg = dict(llm_cfg)
        return ReferenceModel(
            loading.load_llm(
                cfg, tokenizer=tokenizer, max_position_embeddings=max_position_embeddings, full=True
            )
        )
    return ReferenceModel(copy.deepcopy(llm))


def given_model(ref_llm: Mapping[str, Any] | nn.Module, llm: Any) -> ReferenceModel:
    """The model `ref_llm`, in its own precision; ConfigError if its tokens are not those of `llm`."""
    found: Any = ref_llm if isinstance(ref_llm, nn.Module) else loading.load_llm(dict(ref_llm))
    _check_vocabulary(llm, found)
    return ReferenceModel(found)


def _log_own_reference(llm: Mapping[str, Any] | nn.Module, ref_llm: Mapping[str, Any] | nn.Module) -> None:
    if not isinstance(llm, Mapping) or not isinstance(ref_llm, Mapping):
        return
    first, second = ({k: v for k, v in cfg.items() if k != "trust_remote_code"} for cfg in (llm, ref_llm))
    if first == second:
        say_once(
            "model.ref_llm is model.llm itself, {path!r}: leave it out; the reference is the same then, and "
            "with lora it takes no memory",
            path=llm.get("pretrained_model_name_or_path", ""),
        )


def _check_vocabulary(llm: Any, ref_llm: Any) -> None:
    own, other = (_vocabulary(model) for model in (llm, ref_llm))
    size = ref_llm.get_input_embeddings().num_embeddings
    if own is None or other is None:
        trained = llm.get_input_embeddings().num_embeddings
        if trained != size:
            what = (
                "model.ref_llm has {size} tokens and model.llm {trained}: the reference must have the same "
                "vocabulary; name a model of the same family"
            )
            raise ConfigError(translate(what, size=size, trained=trained))
        return
    for token, number in own.items():
        if other.get(token, number) != number or number >= size:
            there = other.get(token, translate("missing"))
            what = (
                "model.ref_llm has another vocabulary than model.llm: token {token!r} is {there} there and "
                "{number} here; name a model of the same family"
            )
            raise ConfigError(translate(what, token=token, there=there, number=number))


def _vocabulary(llm: Any) -> dict[str, int] | None:
    """The numbers of all tokens of the folder that `llm` was loaded from; None if that has no tokenizer."""
    path = getattr(base_model(llm).config, "_name_or_path", "")
    if not path or not has_tokenizer(Path(path)):
        return None
    try:
        return load_tokenizer(path).get_vocab()
    except XTunerError:
        return None


def _random_modules(llm: nn.Module) -> list[nn.Module]:
    return [module for module in llm.modules() if _is_random(module)]


def _is_random(module: nn.Module) -> bool:
    """Whether the module itself, not its children, draws random numbers in training."""
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    rates = (value for name, value in vars(module).items() if _RANDOM.search(name))
    return any(isinstance(rate, float) and rate > 0 for rate in rates)
