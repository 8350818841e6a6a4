"""The Modelfile prompts as training did."""

import shutil

import pytest

from xtuner import cli
from xtuner.convert.ollama import go_template, modelfile
from xtuner.errors import ConfigError
from xtuner.utils import PROMPT_TEMPLATE


def test_the_whole_file():
    """Weights, template, stop words, system text."""
    assert modelfile("/m/x.gguf", PROMPT_TEMPLATE.internlm2_chat, "</s>", 'Be "kind".\n') == (
        "FROM /m/x.gguf\n"
        'TEMPLATE """{{- range $i, $_ := .Messages }}'
        '{{- if eq .Role "system" }}<|im_start|>system\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n<|im_start|>assistant\n'
        "{{ else }}{{ .Content }}{{ if ne (len (slice $.Messages $i)) 1 }}<|im_end|>\n{{ end }}"
        '{{ end }}{{- end }}"""\n'
        'PARAMETER stop "<|im_end|>"\n'
        'PARAMETER stop "</s>"\n'
        'SYSTEM """Be "kind".\n"""\n'
    )


def test_turns_that_end_with_the_eos_token():
    """Without SUFFIX_AS_EOS the end-of-sequence token ends a turn."""
    assert "{{ .Content }}{{ if ne (len (slice $.Messages $i)) 1 }}</s>\n" in go_template(
        PROMPT_TEMPLATE.default, "</s>"
    )


@pytest.mark.parametrize("name", [n for n, t in PROMPT_TEMPLATE.items() if "INSTRUCTION" in t])
def test_every_template_is_translated_or_refused(name):
    """No placeholder is left."""
    template = PROMPT_TEMPLATE[name]
    if "{round}" in template["INSTRUCTION"]:
        with pytest.raises(ConfigError, match="cannot count rounds"):
            go_template(template, "</s>")
        return
    text = go_template(template, "</s>")
    assert not any(mark in text for mark in ("{input}", "{system}", "{bot_name}", "\x00"))
    assert text.count("{{") == text.count("}}")


def test_the_template_is_found(llama_dir, tmp_path, capsys):
    """By the config of the run, by the tokenizer's own template, or by name; else an error asks for one."""
    folder = shutil.copytree(llama_dir, tmp_path / "model")
    out = tmp_path / "out"
    assert cli.main(["convert", "ollama", str(folder), str(out)]) == 1
    assert "name one with --prompt-template" in capsys.readouterr().err
    assert cli.main(["convert", "ollama", str(folder), str(out), "--prompt-template", "qwen_chat"]) == 0
    named = (out / "Modelfile").read_text()
    assert named.startswith(f"FROM {folder}\n")
    turn = "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    own = "{% for m in messages %}" + turn + "{% endfor %}"
    opening = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    (folder / "chat_template.jinja").write_text(own + opening)
    assert cli.main(["convert", "ollama", str(folder), str(out)]) == 0
    assert (
        "<|im_start|>user\n{{ .Content }}<|im_end|>\n<|im_start|>assistant\n"
        in (out / "Modelfile").read_text()
    )
    (folder / "chat_template.jinja").write_text("{% for m in messages %}?{{ m.content }}{% endfor %}")
    assert cli.main(["convert", "ollama", str(folder), str(out)]) == 1
    assert "chat_template cannot be written for Ollama" in capsys.readouterr().err
    (folder / "xtuner_config.py").write_text("prompt_template = 'default'\n")
    assert cli.main(["convert", "ollama", str(folder), str(out), "--system", "Hi"]) == 0
    assert "<|User|>:{{ .Content }}" in (out / "Modelfile").read_text()
    assert cli.main(["convert", "ollama", str(folder), str(out), "--gguf", "no.gguf"]) == 1
    assert "--gguf no.gguf: no such file" in capsys.readouterr().err
