"""Vision-language models of transformers, trained on packed samples with images.

    pack          a a I I a | b b | c I c          I: tokens of images
    tensors       pixel_values of a and c, one after the other; the encoder runs once for all of them
    positions     of each sample alone, by the model's own code if they depend on the sizes of images
    attention     packed in the language part only: an encoder knows nothing of the pack

Samples of families whose images attend both ways run by themselves, with the masks of transformers.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xtuner import dist
from xtuner.errors import ConfigError
from xtuner.families import Images, images_of
from xtuner.image_processor import blank_inputs
from xtuner.language import translate
from xtuner.log import logger
from xtuner.model import attention, passes
from xtuner.model.base import base_model
from xtuner.model.mapped import wanted_dtype
from xtuner.model.packed import Packed
from xtuner.model.passes import Pass
from xtuner.model.sft import SupervisedFinetune
from xtuner.model.vision.adapters import LANGUAGE, PROJECTOR, VISION, adapt, parts_of
from xtuner.model.vision.blank import never_reached, with_blank
from xtuner.model.vision.positions import image_positions, image_types
from xtuner.parallel.tensors import is_divided
from xtuner.parallel.world import all_reduce_max

ImageInputs = Mapping[str, Tensor]


class VisionLanguageFinetune(SupervisedFinetune):
    """A whole vision-language model; encoder, projector and language part are frozen or trained each."""

    def __init__(
        self,
        llm: Mapping[str, Any] | nn.Module,
        freeze_vision: bool = True,
        freeze_projector: bool | None = None,
        freeze_llm: bool = False,
        lora: Any = None,
        vision_lora: Any = None,
        peft_model: str | None = None,
        use_activation_checkpointing: bool | str | None = None,
        use_varlen_attn: bool = False,
        max_position_embeddings: int | None = None,
        tokenizer: Any = None,
    ):
        """`lora`: an adapter of the language part, `vision_lora`: one of the encoder.

        Beside an adapter parts that are not frozen are trained as a whole: `freeze_vision=False`,
        `freeze_projector=False`. The projector is frozen by default beside an adapter only.
        """
        if vision_lora is not None and lora is None and not freeze_llm:
            what = (
                "vision_lora beside a language model that is trained as a whole: give the language model "
                "an adapter too (lora), or set freeze_llm = True"
            )
            raise ConfigError(translate(what))
        whole = [VISION] if not freeze_vision and vision_lora is None else []
        whole += [PROJECTOR] if freeze_projector is False else []
        super().__init__(
            llm,
            lora=vision_lora if lora is None else lora,
            adapt=lambda model, _: adapt(model, lora, vision_lora, whole),
            peft_model=peft_model,
            use_activation_checkpointing=use_activation_checkpointing,
            use_varlen_attn=use_varlen_attn,
            tokenizer=tokenizer,
            max_position_embeddings=max_position_embeddings,
            text_only=False,
        )
        config = base_model(self.llm).config
        images = images_of(config)
        if images is None:
            what = (
                "VisionLanguageFinetune does not know how models of the family '{family}' take images: use "
                "SupervisedFinetune to train it on text"
            )
            raise ConfigError(translate(what, family=config.model_type))
        self._family: Images = images
        self._inputs: Sequence[ImageInputs | None] = ()  # of the samples of the batch that runs
        self.part_of = parts_of(base_model(self.llm))
        frozen = {VISION: freeze_vision, PROJECTOR: bool(freeze_projector), LANGUAGE: freeze_llm}
        if not self.uses_adapter:
            unreached = never_reached(self.llm)
            for name, parameter in self.llm.named_parameters():
                if frozen[self.part_of(name)] or name in unreached:
                    parameter.requires_grad_(False)
        logger.info(translate("Parts that are trained: {parts}", parts=self._describe()))

    def _describe(self) -> str:
        counts: dict[str, int] = {}
        prefix = "base_model.model." if self.uses_adapter else ""
        for name, parameter in self.llm.named_parameters():
            if parameter.requires_grad:
                part = self.part_of(name.removeprefix(prefix))
                counts[part] = counts.get(part, 0) + parameter.numel()
        return ", ".join(f"{translate(part)} ({count:,})" for part, count in counts.items())

    def enable_sequence_parallel(self, group: Any) -> None:
        raise ConfigError(
            translate("sequence_parallel_size: samples with images are not divided: set it to 1")
        )

    @contextlib.contextmanager
    def seeing(self, data: Mapping[str, Any]) -> Iterator[None]:
        """A context in which passes have the tensors of the images of the batch."""
        self._inputs = data.get("image_inputs") or ()
        try:
            yield
        finally:
            self._inputs = ()

    def head_apart(self) -> tuple[nn.Module, nn.Linear] | None:
        parts = super().head_apart()
        # The decoder of the language part would not get the images.
        return None if parts is None else (base_model(self.llm).model, parts[1])

    # --- passes -------------------------------------------------------------------------------------------

    def _may_pack(self, packed: Packed) -> bool:
        # All processes do the same, since they agree on the number of passes if samples run apart.
        if not self._family.packs and all_reduce_max(int(any(self._inputs))):
            return False
        return super()._may_pack(packed)

    def _together(self, packed: Packed, filled: bool) -> Pass:
        found = super()._together(packed, filled)
        if not any(self._inputs):
            return found
        inputs = {**found.inputs, **self._joined(self._inputs)}
        if self._family.mrope:
            inputs["position_ids"] = self._positions(found)
        return replace(found, inputs=inputs)

    def _apart(self, packed: Packed) -> list[Pass]:
        starts = {start: n for n, start in enumerate(packed.boundaries[:-1])}
        return [self._with_images(p, starts) for p in passes.apart(packed)]

    def _with_images(self, p: Pass, starts: Mapping[int, int]) -> Pass:
        if not any(self._inputs):
            return p
        own = [self._inputs[starts[start]] for start in p.index[:, 0].tolist()]
        if not any(own):
            return p
        is_image = p.inputs["input_ids"] == base_model(self.llm).config.image_token_id
        return replace(p, inputs={**p.inputs, **self._joined(own), **image_types(self.llm, is_image)})

    def _joined(self, samples: Sequence[ImageInputs | None]) -> dict[str, Tensor]:
        """The tensors of the images of all samples, on the device."""
        dtype = next(
            wanted_dtype(p)
            for name, p in base_model(self.llm).named_parameters()
            if self.part_of(name) == VISION and p.dtype.is_floating_point
        )
        shown = [inputs for inputs in samples if inputs]
        joined = {}
        for name in shown[0]:
            values = _joined_along([inputs[name] for inputs in shown], self._family.dims.get(name, 0))
            values = values.to(self.device, non_blocking=True)
            joined[name] = values.to(dtype) if values.dtype.is_floating_point else values
        return joined

    def _positions(self, p: Pass) -> Tensor:
        """Positions `[3, 1, N]`: those of each sample alone."""
        base = base_model(self.llm)
        ids, boundaries = p.inputs["input_ids"].cpu(), p.boundaries or ()
        found = []
        samples = itertools.zip_longest(itertools.pairwise(boundaries), self._inputs)
        for (start, end), inputs in samples:
            if not inputs:
                found.append(torch.arange(end - start).expand(3, 1, -1))
                continue
            own = ids[:, start:end]
            found.append(image_positions(base, own, own == base.config.image_token_id, [inputs]))
        return torch.cat(found, dim=-1).to(self.device)

    def run(self, p: Pass, model: Any = None, columns: np.ndarray | None = None) -> Any:
        blank: contextlib.AbstractContextManager = contextlib.nullcontext()
        if "pixel_values" not in p.inputs and self._encoder_must_run:
            blank = with_blank(self.llm, self._joined([self._blank]), self._family.projector)
        with _encoder_alone(base_model(self.llm)), blank:
            return super().run(p, model, columns)

    @functools.cached_property
    def _encoder_must_run(self) -> bool:
        """Whether other processes would wait for this one, if it ran no encoder."""
        return dist.world_size() > 1 and any(
            p.requires_grad or is_divided(p)
            for name, p in base_model(self.llm).named_parameters()
            if self.part_of(name) != LANGUAGE
        )

    @functools.cached_property
    def _blank(self) -> ImageInputs:
        config = base_model(self.llm).config
        return blank_inputs(config.name_or_path, getattr(config, "mm_vision_tower", None))


@contextlib.contextmanager
def _encoder_alone(model: nn.Module) -> Iterator[None]:
    """A context in which the encoder of the model does not get the arguments of a pack."""
    found = [module for module in model.modules() if hasattr(type(module), "get_image_features")]

    def alone(encode: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            own = {name: value for name, value in kwargs.items() if name not in _OF_PACKS}
            with attention.no_pack():
                return encode(*args, **own)

        return call

    for module in found:
        module.get_image_features = alone(module.get_image_features)
    try:
        yield
    finally:
        for module in found:
            del module.get_image_features


_OF_PACKS = {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "position_ids", "use_cache"}


def _joined_along(tensors: Sequence[Tensor], dim: int) -> Tensor:
    """The tensors one after the other along `dim`, with zeros behind those that are smaller elsewhere."""
    shape = [max(sizes) for sizes in zip(*(t.shape for t in tensors), strict=True)]
    shape[dim] = sum(t.shape[dim] for t in tensors)
    if all([*t.shape[:dim], *t.shape[dim + 1 :]] == [*shape[:dim], *shape[dim + 1 :]] for t in tensors):
        return torch.cat(list(tensors), dim)
    joined = tensors[0].new_zeros(shape)
    start = 0
    for tensor in tensors:
        own = [slice(size) for size in tensor.shape]
        own[dim] = slice(start, start + tensor.shape[dim])
        joined[tuple(own)] = tensor
        start += tensor.shape[dim]
    return joined
