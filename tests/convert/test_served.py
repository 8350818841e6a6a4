"""Converted folders: chat template, end-of-turn tokens and page agree with training."""

import copy
import json
import shutil
import subprocess

import pytest
from transformers import AutoTokenizer, pipeline

from xtuner.convert import card, served
from xtuner.convert.ollama import go_template
from xtuner.utils import PROMPT_TEMPLATE
from xtuner.utils.templates import is_tokenizers_own

NAMED = [name for name, template in PROMPT_TEMPLATE.items() if not is_tokenizers_own(template)]
CONFIG = """\
pretrained_model_name_or_path = '/home/me/models/base'
data_path = '/home/me/data/你好.json'
prompt_template = PROMPT_TEMPLATE.{name}
max_length = 512
lr = 2e-5
"""


@pytest.fixture
def folder(llama_dir, tmp_path):
    """A model folder that was trained with the template internlm2_chat."""
    place = shutil.copytree(llama_dir, tmp_path / "model")
    (place / "xtuner_config.py").write_text(CONFIG.format(name="internlm2_chat"))
    return place


def with_marks(tokenizer, template):
    """A tokenizer with the template's marks as tokens, as in models trained with it."""
    words = copy.deepcopy(tokenizer)
    text = " ".join(str(value) for value in template.values())
    marks = [word for word in ("<|im_start|>", "<|im_end|>", "<|eot_id|>") if word in text]
    words.add_tokens(marks, special_tokens=True)
    return words


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMED)
def test_the_chat_template_gives_the_ids_of_training(name, tokenizer):
    """For every named template: with and without a system text, one turn and several, in text."""
    template = PROMPT_TEMPLATE[name]
    words = with_marks(tokenizer, template)
    words.chat_template = served.jinja(template, words)
    for messages in served.dialogues(template):
        text = words.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert text == words.decode(served.trained_ids(words, template, messages))


def test_a_folder_is_given_prompts_and_ends(folder, caplog):
    """The log names chat template and end-of-turn tokens, and how many dialogues agree with training."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": 2, "top_k": 3}')
    with caplog.at_level("INFO", logger="xtuner"):
        served.serve_as_trained(folder)
    assert "instead of none; 4 of 4 dialogues give the token ids of training" in caplog.text
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    said = json.loads((folder / "generation_config.json").read_text())
    assert said == {"eos_token_id": [2, end], "top_k": 3}
    assert (
        AutoTokenizer.from_pretrained(folder).apply_chat_template(
            [{"role": "user", "content": "Hi"}], tokenize=False
        )
        == f"{tokenizer.bos_token or ''}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    caplog.clear()
    with caplog.at_level("INFO", logger="xtuner"):
        served.serve_as_trained(folder)
    assert "The tokenizer's own chat template gives the prompts of training and is kept" in caplog.text


def test_a_template_in_pieces_is_logged(folder, caplog):
    """If the marks are not tokens, programs that encode the whole text may merge them with words."""
    (folder / "xtuner_config.py").write_text(CONFIG.format(name="llama3_chat"))
    served.serve_as_trained(folder)
    assert "'<|eot_id|>' ends an answer but is several tokens" in caplog.text


def test_paths_of_this_machine_are_left_out():
    """Strings that are whole paths keep their last name; other text and relative paths stay."""
    text = "a = '/home/me/x.json'; b = ['~/m', \"C:\\\\u\\\\x\", '../d', 'a / b', '你', '/d/你好.json']\n"
    assert card.without_local_paths(text) == (
        "a = 'x.json'; b = ['m', 'x', '../d', 'a / b', '你', '你好.json']\n"
    )


def test_the_card_is_ready_for_a_hub(folder, tmp_path):
    """Base and data by their names there, the base's license, settings of the run."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\nlicense: no\n")
    card.write_card(folder, str(base), "merged model")
    page = (folder / "README.md").read_text()
    assert page.startswith(
        "---\nlibrary_name: transformers\nlicense: apache-2.0\npipeline_tag: text-generation\n"
        "tags:\n- lora\n- xtuner\n---\n\n# base with a LoRA adapter merged into it\n"
    )
    assert "| prompt_template | internlm2_chat |\n| max_length | 512 |\n| lr | 2e-05 |\n" in page
    assert str(tmp_path) not in page
    (folder / "xtuner_config.py").write_text("data_path = 'tatsu-lab/alpaca'\n")
    card.write_card(folder, "Qwen/Qwen3-8B", "adapter")
    page = (folder / "README.md").read_text()
    assert "base_model: Qwen/Qwen3-8B\nbase_model_relation: adapter\ndatasets:\n- tatsu-lab/alpaca\n" in page
    assert 'from_pretrained("Qwen/Qwen3-8B"), "THIS_FOLDER")' in page
    (folder / "adapter_config.json").write_text('{"peft_type": "OFT"}')
    card.write_card(folder, "Qwen/Qwen3-8B", "adapter")
    page = (folder / "README.md").read_text()
    assert "tags:\n- oft\n- xtuner\n---\n\n# OFT adapter for Qwen/Qwen3-8B\n" in page


def test_a_chat_pipeline_answers(folder):
    """transformers' own, which needs a chat template."""
    served.serve_as_trained(folder)
    answer = pipeline("text-generation", str(folder), device="cpu")(
        [{"role": "user", "content": "Hi"}], max_new_tokens=4
    )
    assert answer[0]["generated_text"][-1]["role"] == "assistant"


@pytest.mark.skipif(shutil.which("go") is None, reason="needs Go, for Ollama's templates")
def test_ollama_gives_the_text_of_training(tmp_path, tokenizer):
    """Checked with Go's text/template, for every template that it can express."""
    cases = []
    for name in NAMED:
        template = PROMPT_TEMPLATE[name]
        if "{round}" in template["INSTRUCTION"] or not (
            template.get("SYSTEM") or template.get("INSTRUCTION_WITH_SYSTEM")
        ):
            continue
        words = with_marks(tokenizer, template)
        words.chat_template = served.jinja(template, words)
        for messages in served.dialogues(template):
            wanted = words.apply_chat_template(messages, tokenize=False).removeprefix(words.bos_token or "")
            wanted = wanted.replace((words.bos_token or "\0"), "")
            cases.append({"name": name, "template": go_template(template, words.eos_token),
                          "messages": messages, "wanted": wanted})  # fmt: skip
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    (tmp_path / "main.go").write_text(GO)
    done = subprocess.run(["go", "run", "main.go"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(c["name"], f) for c, f in zip(cases, found, strict=True)] == [
        (c["name"], c["wanted"]) for c in cases
    ]


GO = """\
package main
import ("encoding/json"; "os"; "strings"; "text/template")
type Message struct { Role string; Content string }
type Case struct { Template string; Messages []Message }
func main() {
	data, _ := os.ReadFile("cases.json")
	var cases []Case
	if err := json.Unmarshal(data, &cases); err != nil { panic(err) }
	var found []string
	for _, c := range cases {
		system := ""
		for _, m := range c.Messages { if m.Role == "system" { system = m.Content } }
		var b strings.Builder
		values := map[string]any{"System": system, "Messages": c.Messages}
		made := template.Must(template.New("").Parse(c.Template))
		if err := made.Execute(&b, values); err != nil { panic(err) }
		found = append(found, b.String())
	}
	json.NewEncoder(os.Stdout).Encode(found)
}
"""
