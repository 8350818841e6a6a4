"""Images in requests to a server with a tiny LLaVA."""

import base64
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient

from tests.llava import LENGTH, picture_file
from xtuner import cli
from xtuner.chat.server import images, serve
from xtuner.chat.server.app import make_app
from xtuner.generation.generate import complete
from xtuner.utils import PROMPT_TEMPLATE

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


HELLO = {"role": "user", "content": "hello"}


def data_url(path):
    kind = path.suffix.removeprefix(".")
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def show(url, text="hello"):
    """A user's message about the image at `url`."""
    parts = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]
    return {"role": "user", "content": parts}


def ask(*messages):
    return {"messages": list(messages), "max_tokens": 6, "temperature": 0}


@pytest.fixture(params=["whole", "parts"])
def service(llava, request):
    """The service of `xtuner serve` for each layout."""
    more = {} if request.param == "whole" else {"llava": str(llava.parts), "visual_encoder": str(llava.clip)}
    model = llava.whole if request.param == "whole" else llava.llm
    settings = serve.ServeSettings(model=str(model), torch_dtype="fp32", **more)
    settings.check()
    service = serve._load(settings, "tiny", PROMPT_TEMPLATE.default, {}, {})
    service.scheduler.start()
    yield service
    service.scheduler.close()


@pytest.fixture
def client(service):
    return TestClient(make_app(service), base_url="http://localhost")


def text_of(reply):
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["message"]["content"]


def test_an_image_in_a_request(service, client, picture):
    """The answer is the same as without a server; the next turn reuses the keys of the image."""
    scheduler, tokenizer = service.scheduler, service.prompts.tokenizer
    pictures = service.prompts.pictures
    assert client.get("/v1/models").json()["data"][0]["input_modalities"] == ["text", "image"]
    first = client.post("/v1/chat/completions", json=ask(show(data_url(picture))))
    shown = pictures.read(picture)
    ids = pictures.encode(tokenizer, f"<s><|User|>:{shown.mark}\nhello\n<|Bot|>:")
    alone = complete(scheduler.model, tokenizer, ids, max_new_tokens=6, temperature=0, pictures=pictures)
    assert text_of(first) == alone.text
    assert first.json()["usage"]["prompt_tokens"] == len(ids) > LENGTH
    said = {"role": "assistant", "content": alone.text}
    then = {"role": "user", "content": "and now?"}
    second = client.post("/v1/chat/completions", json=ask(show(data_url(picture)), said, then))
    assert second.json()["usage"]["prompt_tokens_details"]["cached_tokens"] > LENGTH


def test_requests_with_and_without_images_together(service, client, picture, tmp_path):
    """Answers generated together equal those generated alone."""
    other = picture_file(tmp_path / "dog.jpg", (0, 250, 0), (60, 60))
    bodies = [
        ask(show(data_url(picture))),
        ask(show(data_url(other))),
        ask({"role": "user", "content": "hello"}),
        ask(show(data_url(picture)), {"role": "assistant", "content": "A"}, show(data_url(other))),
    ]
    alone = [text_of(client.post("/v1/chat/completions", json=body)) for body in bodies]
    assert len(set(alone)) == 4
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda body: client.post("/v1/chat/completions", json=body), bodies * 2))
    assert [text_of(reply) for reply in replies] == alone * 2


def test_invalid_images(client, picture, monkeypatch):
    """Each is an error 400 of one line that names the part."""

    def refusal(*messages):
        reply = client.post("/v1/chat/completions", json=ask(*messages))
        assert reply.status_code == 400
        return reply.json()["error"]["message"]

    where = "messages.0.content.1.image_url"
    told = refusal(show("https://example.org/cat.png"))
    assert told.startswith(f"{where}: this server fetches nothing from https")
    assert "must be in base64" in refusal(show("data:image/png,abc"))
    assert "this is not base64" in refusal(show("data:image/png;base64,a*b"))
    assert f"{where} is not an image" in refusal(show("data:image/png;base64,YSBjYXQ="))
    cut = data_url(picture)[:-60]
    assert "is damaged or cut off" in refusal(show(cut))
    many = {"role": "user", "content": [show(data_url(picture))["content"][1]] * 17}
    assert "a request may show 16 images" in refusal(many)
    monkeypatch.setattr("xtuner.dataset.images.decode.MAX_PIXELS", 1000)
    assert "is too large: 80 x 48 pixels" in refusal(show(data_url(picture)))
    assert "only a user's message" in refusal({**show(data_url(picture)), "role": "system"})


def test_flags_that_do_not_match(llava, capsys):
    """Serve refuses what chat refuses, before it loads."""
    argv = ["serve", str(llava.llm), "--port", "0"]
    assert cli.main([*argv, "--visual-encoder", "x"]) == 1
    assert "add --llava FOLDER" in capsys.readouterr().err
    assert cli.main([*argv, "--llava", str(llava.parts), "--adapter", "a"]) == 1
    assert "name one of them" in capsys.readouterr().err
    assert cli.main([*argv, "--llava", str(llava.parts)]) == 1
    assert "give its CLIP with --visual-encoder" in capsys.readouterr().err


def test_images_are_read_one_at_a_time_and_do_not_delay_text(service, client, picture, monkeypatch):
    """While one image is read the next one waits, and a question without an image is answered."""
    at_work, most, texts = [], [], []
    read = service.images.picture

    def slow(*arguments):
        at_work.append(1)
        most.append(len(at_work))
        if not texts:
            texts.append(text_of(client.post("/v1/chat/completions", json=ask(HELLO))))
        found = read(*arguments)
        at_work.pop()
        return found

    monkeypatch.setattr(service.images, "picture", slow)
    with ThreadPoolExecutor(8) as pool:
        bodies = [ask(show(data_url(picture)))] * 8
        replies = list(pool.map(lambda body: client.post("/v1/chat/completions", json=body), bodies))
    assert len({text_of(reply) for reply in replies}) == 1
    assert (max(most), len(most), len(texts)) == (1, 8, 1)


def test_images_of_a_request_that_has_ended_are_not_read(service, client, picture, monkeypatch):
    """A waiting image is not read after its request's deadline."""
    decode, asked = images.decode_image, []

    def slow(*arguments):
        asked.append(1)
        time.sleep(0.3)
        return decode(*arguments)

    monkeypatch.setattr(images, "decode_image", slow)
    service.timeout_s = 0.1
    reply = client.post("/v1/chat/completions", json=ask(show(data_url(picture)), show(data_url(picture))))
    assert (reply.status_code, len(asked)) == (503, 1)
    assert "the time allowed for it was over" in reply.json()["error"]["message"]
