"""The interface between the engine and a training method.

    engine                                                     a method: SupervisedFinetune, DPO, ...
    num_items(data)                      ->                    number of items in the mean: tokens, pairs
    forward(data, num_items=N)           ->  {"loss": sum of the losses of `data` / N, "sums": {metric: sum}}
    parts()                              ->  {"llm": ...}      divided among processes, counted, exported

N counts the items of the whole update: all its batches, all processes. So any split of an update has the
same gradient, and the engine adds losses and metrics and never averages averages.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypedDict

from torch import Tensor, nn

from xtuner.errors import CheckpointError, ConfigError
from xtuner.language import translate
from xtuner.model import adapters
from xtuner.model.vision.features import StoredFeatures


class Outputs(TypedDict):
    """The result of a forward pass; a dict, since DDP, FSDP and DeepSpeed look for tensors in it."""

    loss: Tensor
    sums: dict[str, Tensor]  # of each name in `metrics` the sum over the items of the batch, without gradient


class TrainModule(nn.Module, ABC):
    """A training method with its models. `metrics` are logged, validated and available to `save_best`."""

    metrics: tuple[str, ...] = ()
    # Metrics for which `save_best` keeps the largest; for others, and the loss, the smallest.
    better_if_larger: frozenset[str] = frozenset()
    # Whether only an adapter is trained and saved.
    uses_adapter: bool = False
    # Whether the trained model answers in words, so that one can chat with it.
    writes_text: bool = True
    # Whether it trains on answers that it samples itself, which have rewards.
    learns_from_rewards: bool = False
    # Whether batches bring the log-probabilities of a reference along, which are computed before training.
    stores_reference: bool = False
    # Where features of a frozen image encoder are kept, which are computed before training.
    image_features: StoredFeatures | None = None
    # A checkpoint of an earlier stage, whose weights training begins with.
    starts_from: str | None = None
    # The language model's place in the folder of the trained model; None if it is no part of that.
    llm_folder: str | None = ""
    # The language model, of the methods that have one.
    llm: Any

    @abstractmethod
    def num_items(self, data: dict[str, Any]) -> int:
        """The number of items of `data` that have a loss."""

    @abstractmethod
    def forward(
        self,
        data: dict[str, Any],
        data_samples: Any = None,
        mode: str = "loss",
        num_items: int | Tensor | None = None,
    ) -> Any:
        """`Outputs` of `data` in mode "loss": the loss is divided by `num_items`, by default its own."""

    def parts(self) -> Mapping[str, nn.Module]:
        """The models inside, by name; a run without a language model has none."""
        return {}

    def start_from(self, state: Mapping[str, Any], path: str) -> None:
        """Take the weights `state` of the checkpoint `path` of an earlier stage."""
        self.load_state_dict(state)

    def extra_files(self) -> Mapping[str, str]:
        """Files for the folder of the trained model beside those of transformers or peft, by path in it."""
        return {}

    def image_encoder(self, processor: Any) -> Any:
        """What encodes images for generation, from the pixels of `processor`; None without one."""
        return None

    def chat_form(self, template: Any, system: str) -> tuple[Any, str]:
        """Template and system text of a dialogue, as the data of the model has them."""
        return template, system

    def describe(self, means: Mapping[str, float]) -> dict[str, float]:
        """The values that validation reports, from the means of the loss and of all metrics."""
        return dict(means)

    def enable_sequence_parallel(self, group: Any) -> None:
        """Train only this process's part of each sequence; the other processes of `group` train the rest."""
        what = "sequence_parallel_size: {kind} cannot train on parts of a sequence: set it to 1"
        raise ConfigError(translate(what, kind=type(self).__name__))

    def use_plain_layers(self) -> None:
        """Run each layer's forward as its family defines it, for engines that hook the calls of layers."""

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The trained weights: only those of the adapter if there is one, else all."""
        state = super().state_dict(*args, **kwargs)
        if not self.uses_adapter:
            return state
        prefix = kwargs.get("prefix", "")
        trained = {prefix + name for name, p in self.named_parameters() if p.requires_grad}
        for name in [n for n in state if n.startswith(prefix) and n not in trained]:
            del state[name]
        llm = getattr(self, "llm", None)
        if adapters.adapter_type(llm) is not None:
            own = f"{prefix}llm."
            state = {n: t for n, t in state.items() if not n.startswith(own)}
            state |= {own + n: t for n, t in adapters.run_state(llm).items()}
        return state

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load what `state_dict` saved; `strict`: CheckpointError if weights are missing or unexpected."""
        self.check_fits(state_dict, strict)
        trained = list(self.state_dict())
        llm = getattr(self, "llm", None)
        if adapters.adapter_type(llm) is not None:
            of_llm = {n.removeprefix("llm."): t for n, t in state_dict.items() if n.startswith("llm.")}
            adapters.load_run_state(llm, of_llm)
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        missing = [name for name in trained if name not in state_dict]
        unexpected = [name for name in state_dict if name not in trained]
        return type(result)(missing, unexpected)

    def check_fits(self, state_dict: Mapping[str, Any], strict: bool = True) -> None:
        """CheckpointError if weights have other shapes than here or, with `strict`, others are trained."""
        own = self.state_dict()
        shapes = [(n, list(v.shape), list(own[n].shape)) for n, v in state_dict.items() if n in own]
        if wrong := [(name, there, here) for name, there, here in shapes if there != here]:
            name, there, here = wrong[0]
            raise CheckpointError(
                translate(
                    "The checkpoint does not fit the model: {wrong} of {total} weights have other "
                    "shapes, such as {name}: {there} there, {here} here. Use the base model and the "
                    "lora settings (r) it was trained with",
                    name=name,
                    there=there,
                    here=here,
                    wrong=len(wrong),
                    total=len(shapes),
                )
            )
        missing = [name for name in own if name not in state_dict]
        unexpected = [name for name in state_dict if name not in own]
        faults = _some("{count} weights are missing, as {name}", missing)
        faults += _some("{count} weights are unexpected, as {name}", unexpected)
        if strict and faults:
            raise CheckpointError(
                translate("The checkpoint does not fit the model: {faults}", faults="; ".join(faults))
            )


def _some(text: str, names: list[str]) -> list[str]:
    return [translate(text, count=len(names), name=names[0])] if names else []
