"""The settings of `xtuner eval`, checked before torch is imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from xtuner.chat.settings import ModelSettings
from xtuner.errors import ConfigError
from xtuner.evaluation.text.metrics import find_metric
from xtuner.language import translate
from xtuner.utils import PROMPT_TEMPLATE


@dataclass(frozen=True)
class Settings(ModelSettings):
    """The options of `xtuner eval`."""

    tasks: Sequence[str] = ()
    adapter: str | None = None
    shots: int | None = None
    metrics: Sequence[str] = ()
    limit: int | None = None
    work_dir: str | None = None
    system: str | None = None
    stop_words: Sequence[str] = field(default_factory=list)
    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    samples: int = 1
    code_from: str = "auto"
    code_seconds: int = 10
    code_memory: int = 1024
    batch_size: int = 8
    batch_tokens: int = 4096
    model_name: str | None = None  # this and the next two: of a model at an address
    concurrency: int = 8
    start_token: str | None = None
    judge: str | None = None
    judge_model: str | None = None
    judge_prompt: str | None = None

    def check(self) -> None:
        """Raise ConfigError for an invalid value."""
        lowest = {"max_new_tokens": 1, "batch_size": 1, "batch_tokens": 1, "limit": 1, "shots": 0}
        lowest |= {"temperature": 0, "samples": 1, "code_seconds": 1, "code_memory": 128, "concurrency": 1}
        for name, least in lowest.items():
            value = getattr(self, name)
            if value is not None and value < least:
                flag = name.replace("_", "-")
                what = "--{flag} is {value}: write {least} or more"
                raise ConfigError(translate(what, flag=flag, value=value, least=least))
        if self.samples > 1 and self.temperature == 0:
            what = "--samples {samples} with --temperature 0: all answers are the same; raise it, to 0.8 say"
            raise ConfigError(translate(what, samples=self.samples))
        if self.judge is None and (self.judge_model or self.judge_prompt):
            raise ConfigError(translate("--judge-model and --judge-prompt are for --judge URL: add it"))
        if self.prompt_template is not None:
            PROMPT_TEMPLATE[self.prompt_template]  # an unknown one raises, with the nearest
        for name in self.metrics:
            find_metric(name)
