"""Choose the prompt template of a dialogue: the user's, else the one of training, else the tokenizer's.

asked   trained (xtuner_config.py)   tokenizer           used
a       a, or not known              -                   a
a       b                            -                   a, with a warning
-       b                            -                   b
-       not known                    has chat_template   the tokenizer's own
-       not known                    has none            none: text is passed on unchanged
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xtuner.dataset.internvl import InternVL_V1_5_Dataset
from xtuner.internvl_folder import own_form
from xtuner.language import translate
from xtuner.log import logger
from xtuner.utils import PROMPT_TEMPLATE

CONFIG_NAME = "xtuner_config.py"
# The data set whose samples have the chat template of a processor, unless it names a template itself.
_BY_PROCESSOR = "VisionLanguageDataset"


def choose_template(asked: str | None, folders: list[str | Path]) -> Mapping[str, Any] | None:
    """The template named `asked`, else the one of training by a config in `folders`, else None."""
    chosen = None if asked is None else PROMPT_TEMPLATE[asked]
    trained = trained_template(folders)
    if chosen is None and trained is not None:
        logger.info(translate("Prompt template: %s, with which the model was trained"), name_of(trained))
    if chosen is not None and trained is not None and chosen != trained:
        logger.warning(
            translate("the model was trained with the prompt template %s; with %s its answers may be poor"),
            name_of(trained),
            asked,
        )
    return trained if chosen is None else chosen


def trained_template(folders: list[str | Path]) -> Mapping[str, Any] | None:
    """The prompt template of the first `xtuner_config.py` in `folders`; None if no file names one.

    The file may come from anywhere, so it is parsed and not executed.
    """
    for folder in folders:
        path = Path(folder) / CONFIG_NAME
        if not path.is_file():
            continue
        try:
            found = template_in(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError) as error:
            logger.warning(translate("the prompt template in %s cannot be read: %s"), path, error)
            continue
        if found is not None:
            return found
    return None


def template_in(text: str) -> Mapping[str, Any] | None:
    """The prompt template in the text of a config; None if it names none."""
    tree = ast.parse(text)
    value = _find(tree)
    if isinstance(value, str):
        value = PROMPT_TEMPLATE.get(value.rpartition(".")[2])
    if not isinstance(value, Mapping):
        return None
    of_internvl = any(_is_of(given, InternVL_V1_5_Dataset.__name__) for given in _calls(tree))
    return own_form(value)[0] if of_internvl else value


def _find(tree: ast.Module) -> Any:
    """The template of the config's map function: a name or a dict; None if it has none."""
    assigned = {
        target.id: statement.value
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    calls = _calls(tree)
    for given in calls:
        if _is_of(given, _BY_PROCESSOR):
            return _value(given.get("template", ast.Pass()), assigned) or "auto"
    if "prompt_template" in assigned:
        return _value(assigned["prompt_template"], assigned)
    for given in calls:
        if "template" in given and "template_map_fn_factory" in ast.dump(given.get("type", ast.Pass())):
            return _value(given["template"], assigned)
    return None


def _calls(tree: ast.Module) -> list[dict[str, ast.AST]]:
    """The items of every dict in the config."""
    return [given for node in ast.walk(tree) if (given := _arguments(node))]


def _is_of(given: Mapping[str, ast.AST], name: str) -> bool:
    """Whether the type of a dict is `name`, or a dotted path that ends with it, as code or as text."""
    node = given.get("type", ast.Pass())
    found = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)
    found = node.value if isinstance(node, ast.Constant) else found
    return isinstance(found, str) and found.rpartition(".")[2] == name


def _arguments(node: ast.AST) -> dict[str, ast.AST]:
    """The items of `dict(a=1)` or `{"a": 1}`; {} for anything else."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {str(key.value): value for key, value in pairs if isinstance(key, ast.Constant)}
    return {}


def _value(node: ast.AST, assigned: Mapping[str, ast.AST]) -> Any:
    """A name, a dict of literals, or None."""
    if isinstance(node, ast.Name) and node.id in assigned:
        return _value(assigned[node.id], {k: v for k, v in assigned.items() if k != node.id})
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Subscript):
        return _value(node.slice, assigned)
    if given := _arguments(node):
        return {key: ast.literal_eval(value) for key, value in given.items()}
    return node.value if isinstance(node, ast.Constant) else None


def name_of(template: Mapping[str, Any]) -> str:
    """The name under which `template` is known."""
    names = [name for name, known in PROMPT_TEMPLATE.items() if known == template]
    return translate(" or ").join(names) or translate("of its own")
