"""The pages, run by Streamlit's test harness, and the code behind them."""

import base64
import json
import sys

import pytest
from streamlit.testing.v1 import AppTest

from tests import vision
from xtuner import cli
from xtuner.chat.web.client import Client, Model, ServerError
from xtuner.chat.web.uploads import make_upload
from xtuner.chat.web.words import WORDS
from xtuner.work_dir import checkpoints, find_work_dirs, read_run, run_names


@pytest.fixture(autouse=True)
def _own_main(monkeypatch):
    # Streamlit leaves the page's script there, which processes of later tests would import as theirs.
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


def chat_script(url, language):
    from xtuner.chat.web import chat_page

    chat_page.show(url, None, language)


def watch_script(work_dir, language):
    from xtuner.chat.web import watch_page

    watch_page.show(work_dir, language)


def chat(url, language="en"):
    return AppTest.from_function(chat_script, args=(url, language), default_timeout=20).run()


def texts(page):
    return [m.value for message in page.chat_message for m in message.markdown]


def test_a_dialogue(server):
    """A typed question is answered below the history; each setting reaches the server."""
    page = chat(server.url)
    assert page.selectbox(key="model").options == ["tiny", "poet"]
    page.selectbox(key="model").set_value("tiny").run()
    page.selectbox(key="template").set_value("qwen_chat")
    page.slider(key="temperature").set_value(0.0)
    page.slider(key="top_p").set_value(0.5)
    page.text_area(key="system").set_value("Be kind.")
    page.chat_input[0].set_value("hello").run()
    page.chat_input[0].set_value("again").run()
    assert not page.exception
    assert texts(page) == ["hello", "You said **hello**", "again", "You said **again**"]
    assert "tokens/s, first after" in page.chat_message[1].caption[0].value
    first, second = server.asked
    assert first == {
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "model": "tiny",
        "temperature": 0.0,
        "top_p": 0.5,
        "max_tokens": 1024,
        "prompt_template": "qwen_chat",
    }
    assert [m["content"] for m in second["messages"]] == ["Be kind.", "hello", "You said **hello**", "again"]
    page.button(key="redo").click().run()
    assert len(server.asked) == 3
    assert len(texts(page)) == 4
    page.button(key="new").click().run()
    assert texts(page) == []


def test_refusals_and_notices_are_shown(server):
    """Errors and notices of the server are shown."""
    page = chat(server.url)
    page.chat_input[0].set_value("refuse").run()
    assert page.error[0].value == "256 requests wait already"
    page.chat_input[0].set_value("broken").run()
    assert page.error[1].value == "the model failed"
    page.chat_input[0].set_value("long").run()
    assert "2 oldest turns were left out" in page.chat_message[-1].caption[0].value
    assert "cannot be reached" in chat("http://127.0.0.1:9").error[0].value
    assert "xtuner web MODEL" in chat(None).info[0].value


def number_of_images(block):
    """The images that are drawn in a block and the blocks in it."""
    inner = getattr(block, "children", {}).values()
    return (type(block).__name__ == "Image") + sum(map(number_of_images, inner))


def test_an_image(server, picture):
    """A vision-language model gets images with the text, also in later turns; the history shows them."""
    page = chat(server.url)
    page.selectbox(key="model").set_value("tiny").run()
    page.chat_input[0].upload("cat.png", picture.read_bytes(), "image/png")
    page.chat_input[0].set_value("hello").run()
    page.chat_input[0].set_value("again").run()
    assert not page.exception
    assert texts(page) == ["hello", "You said **hello**", "again", "You said **again**"]
    url = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
    shown = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "hello"}]
    assert server.asked[0]["messages"] == [{"role": "user", "content": shown}]
    assert [m["content"] for m in server.asked[1]["messages"]] == [shown, "You said **hello**", "again"]
    assert number_of_images(page.chat_message[0]) == 1
    page.chat_input[0].upload("cat.png", b"a cat", "image/png")
    page.chat_input[0].set_value("look").run()
    assert page.error[0].value.startswith("The question was not sent: cat.png is not an image: PNG")
    assert len(server.asked) == 2
    page.selectbox(key="model").set_value("poet").run()
    assert not page.chat_input[0].proto.accept_file


def test_several_images(server, tmp_path):
    """A question has all images that are attached to it, in their order, and the history shows them."""
    vision.picture_files(tmp_path)
    names = {"a.png": "image/png", "b.jpg": "image/jpeg", "c.png": "image/png"}
    page = chat(server.url)
    page.selectbox(key="model").set_value("tiny").run()
    for turn in (["a.png", "b.jpg"], ["c.png"]):
        for name in turn:
            page.chat_input[0].upload(name, (tmp_path / name).read_bytes(), names[name])
        page.chat_input[0].set_value("hello").run()
    assert not page.exception

    def part(name):
        data = base64.b64encode((tmp_path / name).read_bytes()).decode()
        return {"type": "image_url", "image_url": {"url": f"data:{names[name]};base64,{data}"}}

    words = {"type": "text", "text": "hello"}
    assert [m["content"] for m in server.asked[1]["messages"]] == [
        [part("a.png"), part("b.jpg"), words],
        "You said **hello**",
        [part("c.png"), words],
    ]
    assert [number_of_images(message) for message in page.chat_message] == [2, 0, 1, 0]


def test_a_refused_question_is_not_sent_again(server):
    """The next question is sent without it; asked again, it is sent alone."""
    page = chat(server.url)
    page.chat_input[0].set_value("refuse").run()
    page.chat_input[0].set_value("hello").run()
    assert [m["content"] for m in server.asked[1]["messages"]] == ["hello"]


def test_large_images_are_made_smaller(tmp_path, monkeypatch):
    """An image too large for a request is made smaller, and the page reports it."""
    from PIL import Image

    monkeypatch.setattr("xtuner.chat.web.uploads.MAX_BYTES", 1000)
    monkeypatch.setattr("xtuner.chat.web.uploads.MAX_SIDE", 50)
    file = tmp_path / "big.png"
    Image.effect_noise((100, 60), 90).save(file)
    upload = make_upload(file.read_bytes(), "image/png", "big.png")
    assert (upload.media_type, upload.size, upload.is_smaller) == ("image/jpeg", (50, 30), True)
    small = tmp_path / "small.png"
    Image.new("RGB", (9, 9)).save(small)
    assert not make_upload(small.read_bytes(), "image/png", "small.png").is_smaller


def test_chinese(server, work_dir):
    """Every text of both pages has a Chinese translation."""
    page = chat(server.url, "zh")
    assert page.slider(key="temperature").label == "温度"
    assert page.chat_input[0].placeholder == "请输入您的问题"
    page = AppTest.from_function(watch_script, args=(str(work_dir), "zh"), default_timeout=20).run()
    assert [m.label for m in page.metric] == ["损失", "学习率", "词元/秒", "内存 (MB)"]
    assert all(english and chinese for english, chinese in WORDS.values())


def test_watching(work_dir):
    """The newest run is shown: numbers, samples by iteration, checkpoints; an older one can be chosen."""
    page = AppTest.from_function(watch_script, args=(str(work_dir), "en"), default_timeout=20).run()
    assert not page.exception
    assert [m.value for m in page.metric] == ["0.25", "0.002", "920", "520"]
    assert [e.label for e in page.expander] == ["iteration 19", "iteration 9"]
    assert page.expander[0].text[0].value == "Who are you?\nI am XTuner."
    table = page.dataframe[0].value
    assert set(table["Name"]) == {"iter_10.pth", "iter_20.pth"}
    page.selectbox(key="run").set_value("20261120_080000").run()
    assert [m.value for m in page.metric] == ["–"] * 4
    page.text_input(key="work_dir").set_value("no/such/place").run()
    assert page.info[0].value == "There is no run in no/such/place"


def test_the_log_of_a_run_is_shown(work_dir):
    """The end of a run is shown; without tokens/s, the time of an iteration; axes begin near the curve."""
    run = work_dir / "20261121_092003"
    run.with_suffix(".log").unlink(missing_ok=True)
    (run / "20261121_092003.log").write_text("Iter(train) [96/96]  lr: 9.2e-04  eta: 0:00:00  time: 0.2\n")
    rows = [{"loss": 5.0 + 1 / i, "time": 0.25, "step": i} for i in range(1, 4)]
    lines = [*map(json.dumps, rows), "3", "\udcff"]
    scalars = "\n".join(lines).encode(errors="surrogateescape")
    (run / "vis_data" / "scalars.json").write_bytes(scalars)
    (work_dir / "last_checkpoint").write_bytes(b"\xff\xfe")
    page = AppTest.from_function(watch_script, args=(str(work_dir), "en"), default_timeout=20).run()
    assert not page.exception
    assert page.get("progress")[0].proto.text == "Iteration 96 / 96 · finished"
    assert [(m.label, m.value) for m in page.metric][2] == ("Seconds/iteration", "0.25")
    charts = [json.loads(chart.proto.spec) for chart in page.get("vega_lite_chart")]
    assert len(charts) == 2
    assert all(chart["encoding"]["y"]["scale"] == {"zero": False} for chart in charts)


def test_a_work_dir_is_read_while_it_is_written(work_dir):
    """An incomplete line is read later; the size of a folder is that of its files."""
    assert run_names(work_dir) == ["20261121_092003", "20261120_080000"]
    assert find_work_dirs(work_dir.parent) == [work_dir]
    run = read_run(work_dir, "20261121_092003")
    assert run.curves["loss"] == [(i, 5.0 / i) for i in range(1, 21)]
    assert set(run.curves) == {"lr", "loss", "memory", "tokens_per_sec"}
    assert run.samples == [
        (9, ["Who are you?\nI am nobody.", "你是谁\n我是 nobody。"]),
        (19, ["Who are you?\nI am XTuner.", "你是谁\n我是 XTuner。"]),
    ]
    assert run.progress == (20, 96, "0:00:18")
    found = {c.name: (c.num_bytes, c.is_last) for c in checkpoints(work_dir)}
    assert found == {"iter_10.pth": (1_500_000, False), "iter_20.pth": (2_500_000, True)}


def test_the_client(server):
    """Pieces arrive as they are sent; closing the stream disconnects."""
    client = Client(server.url)
    assert client.models() == [Model("tiny", True), Model("poet", False)]
    hello = [{"role": "user", "content": "hello"}]
    assert list(client.stream(hello)) == ["You ", "said **", "hello", "**"]
    assert client.num_tokens == 4
    stream = client.stream([{"role": "user", "content": "endless"}])
    assert next(stream) == "more "
    stream.close()
    assert server.hung_up.wait(10)
    with pytest.raises(ServerError, match="256 requests wait"):
        list(client.stream([{"role": "user", "content": "refuse"}]))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["no/such/model/here"], "There is no model folder no/such/model/here"),
        (["http://127.0.0.1:9"], "the server http://127.0.0.1:9 cannot be reached"),
        (["--work-dir", "no/such"], "--work-dir no/such: no such folder"),
        (["--adapter", "x"], "--adapter needs a model that this command serves"),
        (["", "--adapter", "x"], "--adapter needs a model that this command serves"),
    ],
)
def test_wrong_settings_are_one_line(argv, message, capsys):
    """Wrong settings are refused before anything starts."""
    assert cli.main(["web", *argv, "--port", "0"]) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_port_in_use_is_one_line(server, capsys):
    """A port in use is an error; the other program is not affected."""
    port = server.url.rpartition(":")[2]
    assert cli.main(["web", "--port", port]) == 1
    assert f"port {port} of 127.0.0.1 is in use" in capsys.readouterr().err
