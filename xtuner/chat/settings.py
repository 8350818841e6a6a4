"""The settings of `xtuner chat`, checked before the model is loaded, and those that `serve` has too."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.llava_folder import is_official_folder
from xtuner.model_folder import check_model_path
from xtuner.paths import check_adapter_path
from xtuner.utils import PROMPT_TEMPLATE, SYSTEM_TEMPLATE
from xtuner.utils.templates import fill_placeholders


@dataclass(frozen=True)
class ModelSettings:
    """The options that select a model and how it is loaded."""

    model: str
    llava: str | None = None
    visual_encoder: str | None = None
    visual_select_layer: int | None = None
    torch_dtype: str = "fp16"
    bits: int | None = None
    offload_folder: str | None = None
    trust_remote_code: bool = False
    prompt_template: str | None = None


@dataclass(frozen=True)
class Settings(ModelSettings):
    """The options of `xtuner chat`."""

    adapter: str | None = None
    images: tuple[str, ...] = ()
    system: str | None = None
    system_template: str | None = None
    bot_name: str = "BOT"
    plugins: tuple[str, ...] = ()
    lagent: bool = False
    tools: tuple[str, ...] = ()
    stop_words: list[str] = field(default_factory=list)
    stream: bool = True
    max_new_tokens: int = 2048
    temperature: float = 0.1
    top_k: int = 40
    top_p: float = 0.75
    repetition_penalty: float = 1.0
    seed: int = 0
    best_of: int | None = None
    reward: str | None = None

    def check(self) -> None:
        """Raise ConfigError for an invalid value."""
        rules = [
            ("max-new-tokens", self.max_new_tokens, self.max_new_tokens > 0, "1 or more"),
            ("temperature", self.temperature, self.temperature >= 0, "0 (always the likeliest) or more"),
            ("top-k", self.top_k, self.top_k >= 0, "0 (all) or more"),
            ("top-p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("repetition-penalty", self.repetition_penalty, self.repetition_penalty > 0, "above 0"),
        ]
        for name, value, holds, cure in rules:
            if not holds:
                raise ConfigError(
                    translate(
                        "--{name} is {value}: write {cure}.", name=name, value=value, cure=translate(cure)
                    )
                )
        if self.bits not in (None, 4, 8):
            raise ConfigError(translate("--bits is {bits}: write 4, 8 or None.", bits=self.bits))
        if self.prompt_template is not None:
            PROMPT_TEMPLATE[self.prompt_template]  # an unknown one raises, with the nearest
        check_llava_flags(self)
        if self.tools and not self.lagent:
            raise ConfigError(translate("--tools {name} is for agents: add --lagent.", name=self.tools[0]))
        self._check_best_of()

    def check_paths(self) -> None:
        """Raise NotFoundError or ModelError for a model or adapter that is not there, without torch."""
        check_model_path(self.model)
        if self.reward is not None:
            check_model_path(self.reward)
        if self.adapter is not None:
            check_adapter_path(self.adapter)

    def _check_best_of(self) -> None:
        count, others = self.best_of, {"--lagent": self.lagent, "--with-plugins": self.plugins}
        others |= {"--image": self.images, "--llava": self.llava}
        if count is None:
            if self.reward is not None:
                raise ConfigError(
                    translate("--reward {reward} chooses among answers: add --best-of N.", reward=self.reward)
                )
            return
        if count < 1:
            raise ConfigError(translate("--best-of is {count}: write 1 or more.", count=count))
        if self.reward is None:
            raise ConfigError(
                translate(
                    "--best-of {count} needs a reward model that chooses: add --reward MODEL.", count=count
                )
            )
        if count > 1 and self.temperature == 0:
            raise ConfigError(
                translate(
                    "--best-of {count} with --temperature 0: all answers are the same; raise it, to 0.8 say.",
                    count=count,
                )
            )
        if given := [flag for flag, value in others.items() if value]:
            raise ConfigError(
                translate("--best-of scores whole answers to texts: leave {option} out.", option=given[0])
            )

    def system_text(self) -> str:
        """The system text, given as text or by the name of a system template."""
        if self.system_template is None:
            return self.system or ""
        return fill_placeholders(SYSTEM_TEMPLATE[self.system_template], round=1, bot_name=self.bot_name)


def check_llava_flags(settings: ModelSettings) -> None:
    """Raise ConfigError if a part of a LLaVA model is given without its folder."""
    if settings.llava is not None:
        return
    # Of a name on the hub the model's config tells, which is not read yet.
    takes_encoder = is_official_folder(settings.model) or not Path(settings.model).expanduser().exists()
    given = ""
    if settings.visual_select_layer is not None:
        given = f"--visual-select-layer {settings.visual_select_layer}"
    elif settings.visual_encoder is not None and not takes_encoder:
        given = f"--visual-encoder {settings.visual_encoder}"
    if given:
        what = "{given} is for the parts of a LLaVA model: add --llava FOLDER."
        raise ConfigError(translate(what, given=given))
