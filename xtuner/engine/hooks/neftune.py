"""NEFTune (Jain et al. 2023, arXiv 2310.05914): uniform noise on the embeddings while training.

each number of a sample's embeddings [L, d] gets noise from (-m, m), m = noise_alpha / sqrt(L * d)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from xtuner.engine.hooks.hook import Hook
from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.model import attention
from xtuner.model.packed import boundaries_of

if TYPE_CHECKING:
    from xtuner.engine.run import Run


class NEFTuneHook(Hook):
    """Adds the noise by the length of each sample, in a pack or in a padded batch."""

    def __init__(self, noise_alpha: float = 5.0):
        if not noise_alpha > 0:
            raise ConfigError(
                translate(
                    "NEFTuneHook.noise_alpha is {noise_alpha!r}; it must be a number above 0",
                    noise_alpha=noise_alpha,
                )
            )
        self.noise_alpha = noise_alpha
        self._lengths: Tensor | None = None

    def before_train(self, runner: Run) -> None:
        if (runner.cfg.get("sequence_parallel_size") or 1) > 1:
            raise ConfigError(
                translate(
                    "NEFTuneHook does not work with sequence parallelism, where no process has whole "
                    "samples; remove the hook, or set sequence_parallel_size = 1"
                )
            )
        embedding = runner.model.llm.get_input_embeddings()
        self._handle = embedding.register_forward_hook(self._add_noise)

    def after_train(self, runner: Run) -> None:
        self._handle.remove()

    def before_train_iter(self, runner: Run, batch_idx: int, data_batch: Any = None) -> None:
        lengths = torch.tensor(boundaries_of(data_batch["data"])).diff()
        self._lengths = lengths.repeat_interleave(lengths)

    def after_train_iter(
        self, runner: Run, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self._lengths = None  # tokens embedded between batches are not training data

    def _add_noise(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if self._lengths is None or not module.training:
            return output
        length = output.shape[1]
        if attention.pieces() is None:  # each row is a sample
            lengths = torch.full((length,), float(length), device=output.device)
        else:
            lengths = self._lengths.to(output.device, torch.float32)
            # The sequence may end with padding.
            lengths = nn.functional.pad(lengths, (0, length - len(lengths)), value=math.inf)
        size = self.noise_alpha * (lengths * output.shape[-1]).rsqrt()
        noise = torch.empty_like(output).uniform_(-1, 1)
        return output + noise * size[:, None].to(output.dtype)
