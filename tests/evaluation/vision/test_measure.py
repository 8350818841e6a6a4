"""`xtuner mmbench` and `xtuner eval_refcoco` with a tiny LLaVA: answers, files, kills, processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests import vision
from tests.evaluation.vision.pictures import choice_rows, drawn, write_json, write_tsv
from tests.llava import SIZE
from xtuner import cli
from xtuner.errors import DataError
from xtuner.evaluation.vision.answers import part_of
from xtuner.evaluation.vision.benchmarks import (
    Answered,
    score_choices,
    score_hallusion,
    score_mme,
    score_pope,
    score_vqa,
)
from xtuner.evaluation.vision.refcoco import score_boxes
from xtuner.evaluation.vision.results import write_table
from xtuner.evaluation.vision.rows import Question
from xtuner.image_processor import load_processor
from xtuner.locks import writing

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
TINY = ("--prompt-template", "default", "--torch-dtype", "fp32", "--max-new-tokens", 6)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def results(name, work_dir="work_dirs/*"):
    """The content of the only file of that name."""
    (file,) = Path().glob(f"{work_dir}/*/{name}")
    return file.read_text(encoding="utf-8")


def answers(work_dir="work_dirs/*"):
    return [json.loads(line) for line in results("answers.jsonl", work_dir).splitlines()]


@pytest.fixture(scope="module")
def lively(llava, tmp_path_factory):
    """The whole model with larger weights, so that its answers depend on the image."""
    from transformers import LlavaForConditionalGeneration

    folder = shutil.copytree(llava.whole, tmp_path_factory.mktemp("lively") / "whole")
    model = LlavaForConditionalGeneration.from_pretrained(folder)
    for name, parameter in model.named_parameters():
        if "language_model" in name and parameter.dim() > 1:
            parameter.data *= 4
    model.save_pretrained(folder)
    return folder


def of_transformers(folder, rows, image_of):
    """The greedy answer of LlavaForConditionalGeneration to each row, one at a time."""
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    processor = LlavaProcessor.from_pretrained(folder, backend="pil")
    found = []
    for text, image in zip(rows, image_of, strict=True):
        prompt = f"<s><|User|>:<image>\n{text}\n<|Bot|>:"
        inputs = processor(images=image, text=prompt, return_tensors="pt")
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=6, do_sample=False)
        ids = out[0, inputs["input_ids"].shape[1] :]
        text = processor.tokenizer.decode(ids)
        found.append(text.removesuffix("</s>").strip())
    return found


def test_families_with_a_processor_are_measured(here, run, tokenizer):
    """The prompts are those of the processor's chat template; batches give the answers of one at a time."""
    from transformers import AutoModelForImageTextToText

    folder = vision.save("qwen2_5_vl", here / "qwen", tokenizer)
    rows = choice_rows(3)
    write_tsv(here / "mmbench_dev.tsv", rows)
    tiny = ("--torch-dtype", "fp32", "--max-new-tokens", 6, "--data-path", "mmbench_dev.tsv")
    run("mmbench", folder, *tiny, "--batch-size", 4)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = load_processor(folder)
    ask = "Answer with the option's letter from the given choices directly."
    row = rows[0]
    words = [*filter(None, [row["hint"]]), row["question"], *(f"{x}. {row[x]}" for x in "ABCD"), ask]
    text = f"<|vision_start|><|image_pad|><|vision_end|>{chr(10).join(words)}<|im_end|>\n"
    prompt = f"<|im_start|>user\n{text}<|im_start|>assistant\n"
    inputs = processor(images=[drawn("red", (80, 60))], text=[prompt], return_tensors="pt")
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    wanted = processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :])
    assert answers()[0]["prediction"] == wanted.partition("<|im_end|>")[0].partition("</s>")[0].strip()
    run("mmbench", folder, *tiny, "--batch-size", 1, "--work-dir", "single")
    assert answers("single") == answers()


def test_answers_are_those_of_transformers_alone(here, lively, run):
    """Whatever the batch size; the workbook, JSON and table have the circular accuracy."""
    import openpyxl

    rows = choice_rows(3)
    write_tsv(here / "mmbench_dev.tsv", rows)
    ask = "Answer with the option's letter from the given choices directly."
    texts = [
        "\n".join([*filter(None, [row["hint"]]), row["question"], *(f"{x}. {row[x]}" for x in "ABCD"), ask])
        for row in rows
    ]
    images = [drawn(c, (80 + n, 60)) for n, c in enumerate(["red", "blue", "green"]) for _ in range(2)]
    wanted = of_transformers(lively, texts, images)
    assert len(set(wanted)) > 3
    data = ("--data-path", "mmbench_dev.tsv")
    out = run("mmbench", lively, *data, *TINY, "--batch-size", 4)
    assert [line["prediction"] for line in answers()] == wanted
    assert [line["index"] for line in answers()] == [row["index"] for row in rows]
    run("mmbench", lively, *data, *TINY, "--batch-size", 1, "--work-dir", "single")
    assert answers("single") == answers()
    assert json.loads(results("mmbench_result.json", "work_dirs/*"))["counts"]["questions"] == 6
    assert re.search(r"Average +│ +0.0 ", out)
    (book,) = Path().glob("work_dirs/*/*/mmbench_result.xlsx")
    header, *lines = openpyxl.load_workbook(book).active.iter_rows(values_only=True)
    assert header[:3] == ("index", "question", "hint")
    assert header[-3:] == ("prediction", "choice", "hit")
    assert [line[header.index("prediction")] for line in lines] == [
        re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f]", "\ufffd", text) or None for text in wanted
    ]
    args = json.loads(results("args.json", "work_dirs/*"))
    assert (args["model"], args["benchmark"], args["is_finished"]) == (str(lively), "mmbench", True)


def test_both_layouts_answer_alike(here, llava, run):
    write_tsv(here / "mmbench_dev.tsv", choice_rows(2))
    data = ("--data-path", "mmbench_dev.tsv")
    run("mmbench", llava.whole, *data, *TINY, "--work-dir", "whole")
    run("mmbench", llava.llm, "--llava", llava.parts, "--visual-encoder", llava.clip, *data, *TINY)
    assert answers("whole") == answers()


def test_boxes_are_scored_by_split(here, lively, run):
    """`Acc: x` as in the 0.1.x series; the image is stretched on request."""
    for name in ("a", "b"):
        drawn("red").save(f"{name}.jpg")
    rows = [{"image": "a.jpg", "sents": "circle", "bbox": [20, 15, 40, 30], "height": 60, "width": 80}]
    rows += [{**rows[0], "image": "b.jpg", "split": "testB"}, {**rows[0], "id": "refcocog_3", "split": "val"}]
    write_json(here / "refcoco.json", rows)
    prompt = "[refer] give me the location of circle"
    out = run("eval_refcoco", lively, "--data-path", "refcoco.json", *TINY)
    assert "Acc: 0.0\n" in out
    assert re.search(r"refcocog val +│ +0.0 │ +0.000 │ +1 ", out)
    from PIL import Image

    padded, stretched = of_transformers(
        lively, [prompt] * 2, [Image.open("a.jpg"), Image.open("a.jpg").resize((SIZE, SIZE))]
    )
    assert answers()[0]["prediction"] == padded
    more = ("--no-pad-image-to-square", "--work-dir", "other")
    run("eval_refcoco", lively, "--data-path", "refcoco.json", *TINY, *more)
    assert answers("other")[0]["prediction"] == stretched
    assert padded != stretched
    assert json.loads(results("refcoco_result.json", "other"))["refcocog val"] == 0.0


def test_a_broken_image_and_an_answer_without_a_meaning_are_counted(here, llava, run):
    """They count as wrong; the table of POPE says what counts as yes."""
    rows = [{"question_id": n, "image": "a.jpg", "text": "Is it red?", "label": "yes"} for n in range(3)]
    rows[1]["image"], rows[2]["image"] = "b.jpg", "c.jpg"
    drawn("red").save("a.jpg")
    Path("b.jpg").write_bytes(Path("a.jpg").read_bytes()[:300])
    write_json(here / "pope.jsonl", rows)
    out = run("mmbench", llava.whole, "--data-path", "pope.jsonl", *TINY)
    assert "2 questions could not be asked and count as wrong: 1: the image b.jpg is damaged" in out
    assert "; 2: There is no image c.jpg" in out
    assert "1 answer is neither yes nor no, counted as yes where nothing is denied: see work_dirs" in out
    found = json.loads(results("pope_result.json"))
    assert (found["accuracy"], found["yes_ratio"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert found["counts"] == {"questions": 3, "without_answer": 0, "errors": 2, "cut": 1, "unclear": 3}


def test_data_without_right_answers_and_no_openpyxl(here, llava, run, monkeypatch):
    """The answers are written, without scores; as .csv if there is no openpyxl."""
    rows = [{k: v for k, v in row.items() if k != "answer"} for row in choice_rows(1)]
    write_tsv(here / "mmbench_test.tsv", rows)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    out = run("mmbench", llava.whole, "--data-path", "mmbench_test.tsv", *TINY, with_log=True)
    assert "openpyxl is not installed, so the answers are in work_dirs/mmbench_test/" in out
    assert "install 'openpyxl>=3.1'" in out
    assert "The data has no right answers: work_dirs/mmbench_test/" in out
    assert results("mmbench_result.csv").splitlines()[0].endswith("split,prediction")
    assert not list(Path().glob("work_dirs/*/*/*_result.json"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["llm"], "this model reads no images: name a vision-language model, or add --llava"),
        (["whole", "--batch-size", "0"], "--batch-size is 0: write 1 or more"),
        (["whole", "--prompt-template", "vicunna"], "vicuna"),
        (["whole", "--image-folder", "none"], "--image-folder none: there is no such folder"),
        (["whole", "--visual-encoder", "clip"], "--visual-encoder clip is for the parts of a LLaVA model"),
        (["whole", "--data-path", "none.tsv"], "there is no data file none.tsv"),
        (["nothing/there"], "There is no model"),
        (
            ["whole", "--benchmark", "hallusionbench"],
            "the answer of question 0 is 'A', but must be yes or no",
        ),
    ],
)
def test_wrong_calls_are_one_line(here, llava, words, message, capsys):
    write_tsv(here / "d.tsv", [{**row, "subcategory": "x"} for row in choice_rows(1)])
    words = [str(getattr(llava, word)) if word in ("llm", "whole") else word for word in words]
    data = [] if "--data-path" in words else ["--data-path", "d.tsv"]
    ids = ["--prompt-template", "default"] if "--prompt-template" not in words else []
    assert cli.main(["mmbench", *words, *data, *ids, "--max-new-tokens", "2"]) == 1
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("xtuner: error: ")]
    assert len(err) == 1
    assert message in err[0]


def start(*words, **environment):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "xtuner", *map(str, words)]
    return subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_run_resumes(here, lively, run):
    """Killed with -9: what was answered stays and is not asked again; the result is that of a whole run."""
    write_tsv(here / "mmbench_dev.tsv", choice_rows(40, 4))
    words = ("mmbench", lively, "--data-path", "mmbench_dev.tsv", *TINY, "--batch-size", 2)
    process = start(*words)
    deadline = time.monotonic() + 120
    while not any(file.stat().st_size for file in Path().glob("work_dirs/*/*/answers.jsonl")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()
    (file,) = Path().glob("work_dirs/*/*/answers.jsonl")
    kept = file.read_bytes()
    kept = kept[: kept.rindex(b"\n") + 1]
    count = kept.count(b"\n")
    assert 0 < count < 160
    file.write_bytes(kept + b'{"index": 5, "predi')
    out = run(*words, "--batch-size", 8, with_log=True)
    assert f"{count} of 160 questions are answered already, the run continues after them" in out
    assert f"MMBench: {160 - count} questions of mmbench_dev.tsv" in out
    found = answers()
    assert set(map(json.dumps, map(json.loads, kept.splitlines()))) <= set(map(json.dumps, found))
    run(*words, "--work-dir", "whole")
    assert answers("whole") == found
    assert "answered already" not in run(*words, with_log=True)
    assert len(list(Path().glob("work_dirs/*/*/answers.jsonl"))) == 2


def test_a_question_with_an_error_is_asked_again_after_a_kill(here, llava, run):
    """Its image may be there now; the answer replaces the error."""
    rows = [{"question_id": n, "image": f"{n}.jpg", "text": "Red?", "label": "yes"} for n in range(2)]
    drawn("red").save("0.jpg")
    write_json(here / "pope.jsonl", rows)
    words = ("mmbench", llava.whole, "--data-path", "pope.jsonl", *TINY)
    run(*words)
    (file,) = Path().glob("work_dirs/*/*/args.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "is_finished": False}))
    drawn("red").save("1.jpg")
    assert "1 of 2 questions are answered already" in run(*words, with_log=True)
    assert [sorted(line) for line in answers()] == [["cut", "index", "prediction"]] * 2


def test_a_wrong_file_is_reported_before_anything_is_loaded(here, monkeypatch):
    """Whatever the benchmark finds wrong in the right answers, as scoring them would."""
    from xtuner.evaluation.vision.measure import Settings, measure
    from xtuner.parallel.world import World

    monkeypatch.setattr("xtuner.evaluation.vision.measure.load_model", None)
    write_json(here / "pope.jsonl", [{"text": "Red?", "label": "yes"}, {"text": "Red?", "label": "perhaps"}])
    with pytest.raises(DataError, match="the answer of question 1 is 'perhaps', but must be yes or no"):
        measure(Settings("none", data_path="pope.jsonl"), World())
    assert not Path("work_dirs").exists()


@pytest.mark.slow
def test_two_processes_answer_half_each(here, lively, run):
    """The answers are those of one process; the second one's file is merged at the end."""
    write_tsv(here / "mmbench_dev.tsv", choice_rows(4))
    words = ("mmbench", lively, "--data-path", "mmbench_dev.tsv", *TINY)
    run(*words, "--work-dir", "one")
    process = start(*words, "--work-dir", "two", NPROC_PER_NODE="2", OMP_NUM_THREADS="1")
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "processes: 2; answers: two/" in err
    assert answers("two") == answers("one")
    assert json.loads(results("mmbench_result.json", "two")) == json.loads(
        results("mmbench_result.json", "one")
    )
    assert sorted(p.name for p in Path("two").glob("*/*")) == sorted(p.name for p in Path("one").glob("*/*"))


def test_all_messages_have_a_chinese_text(here, llava, run, untold):
    write_tsv(here / "mmbench_dev.tsv", choice_rows(1))
    write_json(here / "pope.jsonl", [{"text": "Red?", "image": "0.jpg", "label": "no"}])
    assert "无法识别" in run("mmbench", llava.whole, "--data-path", "mmbench_dev.tsv", *TINY)
    assert "无法提问" in run("mmbench", llava.whole, "--data-path", "pope.jsonl", *TINY)
    assert {text for text in untold if " " in text} == set()


def test_images_are_divided_among_processes():
    """Questions about one image are answered by one process, one after the other."""
    keys = ["a", "b", "a", "", "c", "", "b"]
    asked = [Question(n, "", {}, n, n, key) for n, key in enumerate(keys)]
    parts = [[question.index for question in part_of(asked, rank, 2)] for rank in range(2)]
    assert parts == [[0, 2, 3, 5], [1, 6, 4]]


def test_one_run_in_a_folder_at_a_time(here, lively, capsys, run):
    """The same command started twice would write the same files: the second one is refused."""
    write_tsv(here / "mmbench_dev.tsv", choice_rows(1))
    words = [str(word) for word in ("mmbench", lively, "--data-path", "mmbench_dev.tsv", *TINY)]
    run(*words)
    (file,) = Path().glob("work_dirs/*/*/args.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "is_finished": False}))
    with writing(file.parent, "the work dir", folder=True):
        assert cli.main(words) == 1
    assert "is in use by process" in capsys.readouterr().err


def answered(said, index=0, /, image="", file="f", **row):
    """An answer `said` to a row."""
    return Answered(index, row, said, image, file)


def test_scores_of_choices():
    """Question 0 is right in both rotations, question 1 in one; categories have their short names."""
    options = {"A": "cat", "B": "dog", "l2-category": "logic_reasoning", "category": "x"}
    other = {"A": "cat", "B": "dog", "L2-category": "relation_reasoning", "category": "x"}
    scores = score_choices(
        [
            answered("A", 0, answer="A", **options),
            answered("cat", 1, answer="A", **other),
            answered("B.", 1_000_000, answer="B", **options),
            answered("who knows", 1_000_001, answer="A", **other),
        ]
    )
    assert scores.metrics == {"Average": 0.5, "LR": 1.0, "RR": 0.0, "x": 0.5}
    assert scores.sections == [[["Average", "50.0"]], [["LR", "100.0"], ["RR", "0.0"]], [["x", "50.0"]]]
    assert [cell["choice"] for cell in scores.cells] == ["A", "A", "B", ""]
    assert [cell["hit"] for cell in scores.cells] == [1, 1, 1, 0]
    assert scores.num_unclear == 1


def test_scores_of_yes_or_no():
    """MME groups by image, HallusionBench by the ids in columns or index, POPE by category."""
    row = {"category": "count", "answer": "Yes"}
    mme = score_mme([answered("Yes", image="a", **row), answered("Maybe", image="a", **row)])
    assert mme.metrics == {"perception": 50.0, "count": 50.0, "count/acc": 50.0, "count/acc+": 0.0}
    assert mme.num_unclear == 1
    hallusion = score_hallusion(
        [
            answered("Yes.", "image_VS_map_0_1_0", category="VS", answer="Yes", **{"l2-category": "map"}),
            answered(
                "yes", category="VD", subcategory="map", set_id="0", figure_id="1", question_id=0, gt_answer=0
            ),
        ]
    )
    assert hallusion.metrics["aAcc"] == 0.5
    assert hallusion.metrics["VS/qAcc"] == 1.0
    assert hallusion.metrics["VD/fAcc"] == 0.0
    rows = [answered("Yes", label="yes", category="random"), answered("", label="no", category="popular")]
    pope = score_pope(rows)
    assert (pope.metrics["accuracy"], pope.metrics["random/f1"]) == (0.5, 1.0)
    assert [line[0] for section in pope.sections for line in section] == ["Overall", "random", "popular"]
    assert "random/f1" not in score_pope(rows[:1]).metrics


def test_scores_of_short_answers():
    """Human answers as a list, as objects, as a list in a text, or one."""
    people = ["dog"] * 10
    rows = [
        {"answers": people},
        {"answers": [{"answer": "dog"}] * 10},
        {"answer": str(people)},
        {"answer": "cat"},
        {"answers": 3},
        {},
    ]
    scores = score_vqa([answered("a dog", **row) for row in rows])
    assert [cell["score"] for cell in scores.cells] == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    assert scores.metrics == {"accuracy": 0.5}


def test_scores_of_short_answers_by_category():
    """Each category has a line below that of all."""
    rows = [("dog", "animal"), ("cat", "animal"), ("red", "colour")]
    scores = score_vqa([answered("dog", answer=answer, category=category) for answer, category in rows])
    assert scores.metrics == pytest.approx(
        {"accuracy": 1 / 3, "animal/accuracy": 0.5, "colour/accuracy": 0.0}
    )
    assert scores.sections == [[["Overall", "33.3"]], [["animal", "50.0"], ["colour", "0.0"]]]


def test_scores_of_boxes():
    """[0, 0, 9, 9] and [0, 0, 9, 8] overlap by 0.9; a malformed answer is counted."""
    box = {"box": [0, 0, 9, 9]}
    scores = score_boxes(
        [answered("{<0><0><9><8>}", file="testA", **box), answered("no", file="testB", **box)]
    )
    assert scores.metrics == {"Acc": 0.5, "mean_iou": 0.45, "testA": 1.0, "testB": 0.0}
    assert scores.sections[1] == [["testA", "100.0", "0.900", "0"], ["testB", "0.0", "0.000", "1"]]
    assert (scores.num_unclear, scores.summary) == (1, "Acc: 0.5")


def test_a_workbook_holds_answers_as_text(tmp_path):
    """No formula, no control character, no text that is too long for a cell."""
    import openpyxl

    rows = [
        {"index": 1, "prediction": "=1+1", "people": ["a"]},
        {"index": 2, "prediction": "\x07" + "x" * 40_000},
    ]
    path = write_table(tmp_path / "a.xlsx", rows)
    header, first, second = openpyxl.load_workbook(path).active.iter_rows()
    assert [cell.value for cell in header] == ["index", "prediction", "people"]
    assert [(cell.value, cell.data_type) for cell in first] == [(1, "n"), ("=1+1", "s"), ('["a"]', "s")]
    assert second[1].value == ("\ufffd" + "x" * 40_000)[:32_767]
