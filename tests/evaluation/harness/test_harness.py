"""`xtuner eval --harness`: scores of lm-evaluation-harness by its own model, by ours, and by our tasks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="lm-eval is not installed: make harness")

import datasets
import yaml

from xtuner import cli

FP32 = ("--torch-dtype", "fp32")
HARNESS = ("--harness", "--include-path", "tasks", *FP32)
LENGTH = 6
WORDS = ["one", "two", "six", "ten", "a thing", "no thing at all", "small model", "today"]
PROMPT = "<s><|User|>:{{question}}\n<|Bot|>:"
NUMBERS = ("word_perplexity", "byte_perplexity", "bits_per_byte")


def mixed(n, count=4):
    """Made-up choices."""
    return [f"{WORDS[(3 * n + 2 * k) % 8]} {WORDS[(n * k + 1) % 8]}" for k in range(count)]


def answers_of(folder, questions):
    """The greedy answers of transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    found = []
    for question in questions:
        prompt = PROMPT.replace("{{question}}", question)
        ids = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            out = model.generate(ids, max_new_tokens=LENGTH, do_sample=False)
        found.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip())
    return found


def write(name, rows):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def write_data(model):
    """The files of five tasks: layouts of ARC, HellaSwag and MMLU, answers, and a text."""
    write(
        "arc.jsonl",
        [
            {
                "question": f"What is {WORDS[n % 8]}?",
                "choices": {"text": mixed(n, 3 + n % 2), "label": list("ABCD")[: 3 + n % 2]},
                "answerKey": "ABC"[n % 3],
            }
            for n in range(12)
        ],
    )
    write(
        "hellaswag.jsonl",
        [
            {
                "activity_label": f"Work {n}",
                "ctx_a": f"{mixed(n)[0]} [title] {WORDS[n % 8]}",
                "ctx_b": "then the model",
                "endings": [f"{text} [step]." for text in mixed(n)],
                "label": str(n % 4),
            }
            for n in range(12)
        ],
    )
    for split, count in (("dev", 2), ("test", 10)):
        rows = [
            {"question": f"{split} {n}? ", "subject": "law", "choices": mixed(n), "answer": n % 4}
            for n in range(count)
        ]
        write(f"mmlu/{split}.jsonl", rows)
    asked = [f"one {n}" for n in range(5)]
    answers = [*answers_of(model, asked)[:3], "another", "a third"]
    write("sums.jsonl", [{"question": q, "answer": a} for q, a in zip(asked, answers, strict=True)])
    write("book.jsonl", [{"text": "one two six ten " * (60 * n) + WORDS[n]} for n in range(1, 4)])


def write_tasks():
    """The same as tasks of the harness, in the folder `tasks`."""
    choices = {"output_type": "multiple_choice", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}]}
    write_task(
        "own_arc",
        "arc.jsonl",
        doc_to_text="Question: {{question}}\nAnswer:",
        doc_to_target="{{choices.label.index(answerKey)}}",
        doc_to_choice="{{choices.text}}",
        **choices,
    )
    without_marks = "replace(' [title]', '. ')|replace(' [step]', '')"
    write_task(
        "own_hellaswag",
        "hellaswag.jsonl",
        doc_to_text="{{activity_label}}: {{ctx_a|" + without_marks + "}} {{ctx_b|capitalize}}",
        doc_to_target="{{label}}",
        doc_to_choice="{{endings|map('replace', ' [step]', '')|list}}",
        **choices,
    )
    letters = "\n".join(f"{letter}. {{{{choices[{n}]}}}}" for n, letter in enumerate("ABCD"))
    write_task(
        "own_mmlu",
        {"dev": "mmlu/dev.jsonl", "test": "mmlu/test.jsonl"},
        output_type="multiple_choice",
        metric_list=[{"metric": "acc"}],
        description="The following are multiple choice questions (with answers) about law.\n\n",
        doc_to_text="{{question.strip()}}\n" + letters + "\nAnswer:",
        doc_to_target="answer",
        doc_to_choice=list("ABCD"),
        fewshot_split="dev",
        fewshot_config={"sampler": "first_n"},
        num_fewshot=2,
    )
    write_task(
        "own_sums",
        "sums.jsonl",
        output_type="generate_until",
        metric_list=[{"metric": "exact_match"}],
        doc_to_text=PROMPT,
        doc_to_target="{{answer}}",
        generation_kwargs={"until": ["<|User|>"], "max_gen_toks": LENGTH, "do_sample": False},
        filter_list=[
            {"name": "stripped", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}
        ],
    )
    write_task(
        "own_book",
        "book.jsonl",
        output_type="loglikelihood_rolling",
        metric_list=[{"metric": name} for name in NUMBERS],
        doc_to_text="",
        doc_to_target="{{text}}",
    )


def write_task(name, files, **config):
    files = {"test": files} if isinstance(files, str) else files
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": files}, "test_split": "test"}
    Path("tasks").mkdir(exist_ok=True)
    Path(f"tasks/{name}.yaml").write_text(yaml.safe_dump({"task": name, **data, **config}), "utf-8")


# Packages of lm-eval warn of their own age.
pytestmark = pytest.mark.filterwarnings("default")
TASKS = ("own_arc", "own_hellaswag", "own_mmlu", "own_sums", "own_book")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def by_its_own_model(folder, adapter=None, **options):
    """The numbers of lm-evaluation-harness's own class for models of transformers."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path="tasks", include_defaults=False)
    lm = HFLM(pretrained=str(folder), peft=adapter, dtype="float32", device="cpu", batch_size=2)
    found = simple_evaluate(model=lm, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0, **options)
    return {
        name: {
            key.partition(",")[0]: value for key, value in numbers.items() if "," in key and value != "N/A"
        }
        for name, numbers in found["results"].items()
    }, found["samples"]


def results(work_dir):
    (file,) = Path(work_dir).glob("*/results.json")
    return json.loads(file.read_text("utf-8"))["tasks"]


def lines(work_dir):
    (file,) = Path(work_dir).glob("*/answers.jsonl")
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def failure(capsys, *words):
    """What a command that must fail says."""
    assert cli.main([str(word) for word in words]) == 1
    return next(line for line in capsys.readouterr().err.splitlines() if line.startswith("xtuner: error:"))


def test_scores_are_those_of_its_own_model_and_of_our_tasks(here, llama_dir, run):
    """On five tasks: the same accuracies, the same answers, perplexities to 1e-5 of their value."""
    write_data(llama_dir)
    write_tasks()
    wanted, samples = by_its_own_model(llama_dir)
    out = run("eval", llama_dir, *HARNESS, "--tasks", ",".join(TASKS), "--work-dir", "a")
    assert "│ own_arc " in out
    assert "5 answers were cut at the length that their task sets, or of the context" in out
    found = results("a")
    assert list(found) == list(TASKS)
    names = {"exact_match": "exact_match (stripped)"}
    for task, numbers in wanted.items():
        for metric, value in numbers.items():
            ours = found[task]["metrics"][names.get(metric, metric)]
            assert ours == pytest.approx(value, rel=1e-5), (task, metric)
    assert wanted["own_sums"] == {"exact_match": 0.6}
    assert [len(numbers) for numbers in wanted.values()] == [2, 2, 1, 1, 3]
    logprobs = {line["index"]: line for line in lines("a")}
    for task in TASKS[:3]:
        for sample in samples[task]:
            theirs = [float(value) for value, _ in (one[0] for one in sample["resps"])]
            assert logprobs[f"{task}/{sample['doc_id'] + 1}"]["logprobs"] == pytest.approx(theirs, abs=1e-4)
    for sample in samples["own_sums"]:
        assert logprobs[f"own_sums/{sample['doc_id'] + 1}"]["prediction"] == sample["resps"][0][0]

    files = ("arc.jsonl", "hellaswag.jsonl", "mmlu", "sums.jsonl", "book.jsonl")
    words = ("--max-new-tokens", LENGTH, "--prompt-template", "default", "--metrics", "exact")
    run("eval", llama_dir, "--tasks", *files, *FP32, *words, "--work-dir", "b")
    own = results("b")
    for task, file in zip(TASKS, files, strict=True):
        for metric, value in own[Path(file).stem]["metrics"].items():
            name = {"exact": "exact_match (stripped)"}.get(metric, metric)
            if name in found[task]["metrics"]:
                assert value == pytest.approx(found[task]["metrics"][name], rel=1e-6), (task, metric)
            else:
                assert metric == "perplexity"


def test_a_start_token_and_a_chat_template_are_as_with_its_own_model(here, llama_dir, run):
    """A tokenizer that adds a start token, which the chat template writes too: it stands there once."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(llama_dir)
    start = [(tokenizer.bos_token, tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=start)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|bot|>{% endif %}"
    )
    AutoModelForCausalLM.from_pretrained(llama_dir).save_pretrained("model")
    tokenizer.save_pretrained("model")
    write_data(llama_dir)
    write_tasks()
    for words, chat in ((), False), (("--apply-chat-template",), True):
        _, samples = by_its_own_model("model", apply_chat_template=chat)
        run("eval", "model", *HARNESS, *words, "--tasks", *TASKS, "--work-dir", f"chat {chat}")
        found = {line["index"]: line for line in lines(f"chat {chat}")}
        for task, own in samples.items():
            for sample in own:
                line = found[f"{task}/{sample['doc_id'] + 1}"]
                theirs = [one[0] for one in sample["resps"]]
                if task == "own_sums":
                    assert line["prediction"] == theirs[0]
                elif task == "own_book":
                    assert line["logprob"] == pytest.approx(float(theirs[0]), rel=1e-6)
                else:
                    assert line["logprobs"] == pytest.approx([float(one[0]) for one in theirs], abs=1e-4)


def test_an_adapter_is_on_the_model(here, llama_dir, adapter_dir, run):
    """With the log-probabilities of peft."""
    write_data(llama_dir)
    write_tasks()
    _, samples = by_its_own_model(llama_dir, str(adapter_dir))
    run("eval", llama_dir, "--adapter", adapter_dir, *HARNESS, "--tasks", "own_arc", "--work-dir", "a")
    theirs = [[float(one[0][0]) for one in sample["resps"]] for sample in samples["own_arc"]]
    for line, wanted in zip(lines("a"), theirs, strict=True):
        assert line["logprobs"] == pytest.approx(wanted, abs=1e-4)


def test_groups_filters_and_several_answers(here, llama_dir, run):
    """A group has a row for each task; every filter has its number; sampled answers depend on the seed."""
    write_data(llama_dir)
    write_tasks()
    Path("tasks/_own.yaml").write_text(
        yaml.safe_dump(
            {
                "group": "own",
                "task": ["own_arc", "own_hellaswag"],
                "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
            }
        )
    )
    write_task(
        "own_votes",
        "sums.jsonl",
        output_type="generate_until",
        metric_list=[{"metric": "exact_match"}],
        doc_to_text="{{question}}",
        doc_to_target="{{answer}}",
        generation_kwargs={"until": [], "max_gen_toks": LENGTH, "do_sample": True, "temperature": 2.0},
        repeats=3,
        filter_list=[
            {"name": "first", "filter": [{"function": "take_first"}]},
            {"name": "most", "filter": [{"function": "majority_vote"}, {"function": "take_first"}]},
        ],
    )
    words = ("eval", llama_dir, *HARNESS, "--tasks", "own", "own_votes", "--limit", 4)
    out = run(*words, "--work-dir", "a")
    found = results("a")
    assert list(found) == ["own", "own_votes"]
    assert found["own"]["questions"] == 8
    parts = [numbers["acc"] for numbers in found["own"]["groups"].values()]
    assert found["own"]["metrics"] == {"acc": sum(parts) / 2}
    assert "│   own_arc " in out
    assert list(found["own_votes"]["metrics"]) == ["exact_match (first)", "exact_match (most)"]
    run(*words, "--work-dir", "b", "--batch-size", 1)
    assert lines("b") == lines("a")
    run(*words, "--work-dir", "c", "--seed", 1)
    assert lines("c") != lines("a")


def test_a_killed_run_goes_on(here, llama_dir, run, monkeypatch, capsys):
    """What was answered before is not asked again, and the end is that of a whole run."""
    from xtuner.evaluation.harness.model import HarnessModel

    write_data(llama_dir)
    write_tasks()
    words = ("eval", llama_dir, *HARNESS, "--tasks", "own_arc", "own_sums", "--work-dir", "a")
    with monkeypatch.context() as patch:
        patch.setattr(HarnessModel, "generate_until", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cli.main(["--debug", *map(str, words)])
    capsys.readouterr()
    count = len(lines("a"))
    assert count == 28  # of 42, some ask the same
    assert f"{count} requests of the tasks are answered already" in run(*words, with_log=True)
    run(*words[:-1], "b")
    assert (results("a"), lines("a")) == (results("b"), lines("b"))


def test_what_does_not_fit_is_counted(here, llama_dir, run):
    """A choice beyond the context is never chosen; the beginning of a long prompt is cut."""
    write_data(llama_dir)
    write_tasks()
    long = "six " * 2000
    row = {"question": "?", "choices": {"text": ["one", long], "label": ["A", "B"]}, "answerKey": "A"}
    write("arc.jsonl", [row, {**row, "question": long, "choices": {"text": ["a", "b"], "label": ["A", "B"]}}])
    out = run("eval", llama_dir, *HARNESS, "--tasks", "own_arc", "--work-dir", "a", with_log=True)
    assert "1 text is longer than the model's context of 512 tokens" in out
    assert "1 prompt is longer than the model's context of 512 tokens" in out
    assert lines("a")[0]["logprobs"][1] == float("-inf")


def test_mistakes_are_one_line(here, llama_dir, capsys):
    write_data(llama_dir)
    write_tasks()
    write_task("own_beams", "sums.jsonl", output_type="generate_until", doc_to_text="?", doc_to_target="!")
    text = Path("tasks/own_beams.yaml").read_text()
    Path("tasks/own_beams.yaml").write_text(text + "generation_kwargs: {num_beams: 2}\n")
    write_task("own_none", "none.jsonl", output_type="generate_until", doc_to_text="?", doc_to_target="!")
    Path("tasks/own_unsafe.yaml").write_text(text.replace("own_beams", "own_unsafe") + "unsafe_code: true\n")
    for words, message in (
        (("--tasks", "arc_eazy"), "lm-eval has no such task. Did you mean 'arc_easy'?"),
        (("--tasks", "own_none"), "lm-eval cannot load own_none: FileNotFoundError: "),
        (("--tasks", "own_unsafe"), "own_unsafe runs programs that the model writes, without a sandbox"),
        (("--tasks", "own_beams"), "own_beams sets num_beams of generation_kwargs to 2"),
        (("--tasks", "own_arc", "--apply-chat-template"), "has no chat template: leave it out"),
        (("--tasks", "own_arc", "--include-path", "other"), "--include-path other: there is no such folder"),
    ):
        assert message in failure(capsys, "eval", llama_dir, *HARNESS, *words)


def test_all_messages_have_a_chinese_text(here, llama_dir, run, untold):
    write_data(llama_dir)
    write_tasks()
    run("eval", llama_dir, *HARNESS, "--tasks", *TASKS, "--limit", 2, "--shots", 1)
    assert {text for text in untold if " " in text} == set()
