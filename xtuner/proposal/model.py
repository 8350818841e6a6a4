"""The facts of a model folder, from its small files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtuner.check.template import fitting_templates
from xtuner.errors import ModelError
from xtuner.estimate.images import with_images
from xtuner.estimate.shape import Shape, read_shape
from xtuner.families import FAMILIES, UNKNOWN
from xtuner.language import translate
from xtuner.llava_folder import is_official, text_family
from xtuner.loadable import WIDENED, check_language_model, check_training, quantised_by
from xtuner.model_folder import check_model_folder, read_json, read_tokenizer
from xtuner.proposal.methods import quantises, trains_all
from xtuner.recipes.models import MODELS, Model
from xtuner.utils import PROMPT_TEMPLATE

_USUAL_CONTEXT = 2048


@dataclass(frozen=True)
class ModelFacts:
    """A model folder; `row` is the row of the built-in model that it is a copy of."""

    path: str
    family: str
    context: int
    shape: Shape | None
    template: str
    why_template: str
    row: Model | None
    quantised: str | None = None  # the quantisation method of its weights
    sees: bool = False  # trains with images


def look_at_model(path: str, template: str | None = None, method: str | None = None) -> ModelFacts:
    """The facts of the folder; `template` overrides the fitting one, `method` is the one of the training."""
    # The written config trusts the code of the model, if it has any.
    config = check_language_model(path, trust_remote_code=True)
    check_model_folder(path, tokenizer=True)
    folder = Path(path)
    if config is None:
        what = (
            "{path} is a name on the hub: new-cfg looks into the folder of the model, so fetch it first and "
            "give the folder; for a name, see xtuner list-cfg and xtuner copy-cfg"
        )
        raise ModelError(translate(what, path=path))
    check_training(config, path, full=trains_all(method), asked=quantises(method))
    row = _known_row(folder, config)
    shape = with_images(read_shape(config), path)
    chosen, why = _template(folder, row, template)
    return ModelFacts(
        path=path,
        family=str(config.get("model_type", "unknown")),
        context=(shape.context if shape else None) or (row.context if row else _USUAL_CONTEXT),
        shape=shape,
        template=chosen,
        why_template=why,
        row=row,
        sees=FAMILIES.get(str(config.get("model_type")), UNKNOWN).images is not None,
        quantised=None if (method := quantised_by(config)) in WIDENED else method,
    )


def _known_row(folder: Path, config: Mapping[str, Any]) -> Model | None:
    """The built-in model with the name of the folder: internlm2-chat-1_8b, or models--internlm--..."""
    names = {part.lower() for part in (folder.resolve().name, str(config.get("_name_or_path", "")))}
    for model in MODELS.values():
        owner, _, name = model.path.lower().partition("/")
        if names & {name, f"{owner}/{name}", f"{owner}_{name}", f"models--{owner}--{name}"}:
            return model
    return None


def _template(folder: Path, row: Model | None, asked: str | None) -> tuple[str, str]:
    """The name of the prompt template, and the reason."""
    if asked is not None:
        PROMPT_TEMPLATE[asked]  # an unknown one raises, with the nearest
        return asked, translate("as --template says")
    tokenizer, config = read_tokenizer(folder), read_json(folder / "config.json")
    if tokenizer.get("chat_template"):
        return "auto", translate("the tokenizer brings its own chat_template")
    if row is not None and isinstance(row.template, str):
        return row.template, translate("that of {name}", name=row.name)
    if is_official(config):
        found = "mistral" if text_family(config) == "mistral" else "vicuna"
        return found, translate("that of the package llava for this family")
    fitting = fitting_templates(tokenizer.get("tokens", set()))
    if "qwen_chat" in fitting:
        what = "its marks <|im_start|> and <|im_end|> are tokens of the tokenizer"
        return "qwen_chat", translate(what)
    if fitting:
        return fitting[0], translate("its marks are tokens of the tokenizer")
    what = "the tokenizer has no marks of turns, so those of the default are plain words"
    return "default", translate(what)
