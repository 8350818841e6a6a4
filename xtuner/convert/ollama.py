"""Write the Modelfile with which Ollama prompts a model as it was trained.

FROM /models/mine.gguf
TEMPLATE \"""{{- range $i, $_ := .Messages }}...\"""      the prompt template, for Go's text/template
PARAMETER stop <|im_end|>                              a text that ends an answer
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xtuner.chat.trained_with import name_of, trained_template
from xtuner.convert.folders import model_folder
from xtuner.dataset.encoding.chat_template import ChatTemplate
from xtuner.errors import ConfigError, NotFoundError
from xtuner.language import translate
from xtuner.log import logger
from xtuner.model.tokenizer import load_tokenizer
from xtuner.utils import PROMPT_TEMPLATE
from xtuner.utils.templates import fill_placeholders, is_tokenizers_own, render_prompt


def write_modelfile(
    model: str | Path,
    out_dir: str | Path,
    *,
    weights: str | Path | None = None,
    prompt_template: str | None = None,
    system: str | None = None,
) -> Path:
    """Write `out_dir`/Modelfile for the model folder `model`, its weights from the GGUF file `weights`."""
    named = None if prompt_template is None else PROMPT_TEMPLATE[prompt_template]
    source = model_folder(model, "the model")
    origin = source if weights is None else Path(weights).expanduser().resolve()
    if weights is not None and not origin.is_file():
        raise NotFoundError(
            translate("--gguf {weights}: no such file; make it with xtuner convert gguf", weights=weights)
        )
    tokenizer = load_tokenizer(source)
    template = named or trained_template([source]) or _equal_template(tokenizer)
    if is_tokenizers_own(template):
        template = _equal_template(tokenizer)
    text = modelfile(str(origin), template, str(tokenizer.eos_token or ""), system)
    path = Path(out_dir).expanduser() / "Modelfile"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    logger.info(
        translate("%s: prompt template %s. Next: ollama create NAME -f %s"), path, name_of(template), path
    )
    return path


def modelfile(origin: str, template: Mapping[str, Any], eos: str, system: str | None) -> str:
    """The text of the Modelfile; `eos` ends a turn if the template's SUFFIX does not."""
    ends = [*(template.get("STOP_WORDS") or []), *([eos] if eos else [])]
    lines = [f"FROM {origin}", f'TEMPLATE """{go_template(template, eos)}"""']
    lines += [f"PARAMETER stop {_quoted(word)}" for word in dict.fromkeys(ends)]
    if system:
        lines.append(f"SYSTEM {_quoted(system)}")
    return "\n".join(lines) + "\n"


def go_template(template: Mapping[str, Any], eos: str) -> str:
    """The prompt template as a template of Go's text/template."""
    question = _with_fields(template["INSTRUCTION"], input="{{ .Content }}")
    ends = "" if template.get("SUFFIX_AS_EOS", False) else eos
    after = (template.get("SUFFIX") or "") + ends + (template.get("SEP") or "")
    answer = "{{ .Content }}{{ if ne (len (slice $.Messages $i)) 1 }}" + _literal(after) + "{{ end }}"
    both = template.get("INSTRUCTION_WITH_SYSTEM")
    if both is not None:
        first = _with_fields(both, system="{{ $.System }}", input="{{ .Content }}")
        question = "{{ if and $.System (eq $i 1) }}" + first + "{{ else }}" + question + "{{ end }}"
        system = ""
    else:
        system = _with_fields(template.get("SYSTEM") or "{system}\n", system="{{ .Content }}")
    return (
        "{{- range $i, $_ := .Messages }}"
        '{{- if eq .Role "system" }}'
        + system
        + '{{ else if eq .Role "user" }}'
        + question
        + "{{ else }}"
        + answer
        + "{{ end }}{{- end }}"
    )


def _with_fields(text: str, **fields: str) -> str:
    if "{round}" in text:
        raise ConfigError(
            translate("Ollama's templates cannot count rounds, as this prompt template does: use another one")
        )
    marks = {name: f"\x00{name}\x00" for name in fields}
    filled = _literal(fill_placeholders(text, **marks, bot_name="BOT"))
    for name, mark in marks.items():
        filled = filled.replace(mark, fields[name])
    return filled


def _literal(text: str) -> str:
    """`text` escaped for Go's template and the Modelfile's quotes."""
    return text.replace("{{", '{{ "{{" }}').replace('"""', '{{ "\\"\\"\\"" }}')


def _quoted(text: str) -> str:
    """`text` as a value of the Modelfile, which has no escapes: `\"""` ends at the end of a line."""
    *before, _ = text.split("\n")
    if any(line.rstrip().endswith('"""') for line in before):
        raise ConfigError(translate('Ollama ends the text at a line that ends with """: remove these quotes'))
    return f'"""{text}"""' if '"' in text or before else f'"{text}"'


def _takes_system(template: Mapping[str, Any]) -> bool:
    return bool(template.get("SYSTEM") or template.get("INSTRUCTION_WITH_SYSTEM"))


def _equal_template(tokenizer: Any) -> Mapping[str, Any]:
    """The named template that equals the tokenizer's chat_template; ConfigError if none does."""
    cure = translate("name one with --prompt-template")
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(translate("the model's prompt template is not known: {cure}", cure=cure))
    own = ChatTemplate(tokenizer)
    dialogue = [{"role": "system", "content": "Qzx0z"}, {"role": "user", "content": "Qzx1z"}]
    prompt_of_own = own.write(dialogue, prompt=True).removeprefix(str(tokenizer.bos_token or ""))
    for name, template in PROMPT_TEMPLATE.items():
        if is_tokenizers_own(template) or "{round}" in template["INSTRUCTION"] or not _takes_system(template):
            continue
        if render_prompt(template, "Qzx1z", system="Qzx0z") == prompt_of_own:
            logger.info(translate("Prompt template: %s, which equals the tokenizer's chat_template"), name)
            return template
    raise ConfigError(
        translate("the tokenizer's chat_template cannot be written for Ollama: {cure}", cure=cure)
    )
