"""Images that requests name: files of one folder, addresses of the web; several of them; every family."""

from __future__ import annotations

import base64
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from fastapi.testclient import TestClient
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText

from tests import vision
from xtuner import cli
from xtuner.chat.server import images, serve
from xtuner.chat.server.app import make_app
from xtuner.chat.server.prompts import PromptWriter
from xtuner.chat.session import make_session
from xtuner.dataset.reading import web
from xtuner.generation.generate import complete
from xtuner.utils import PROMPT_TEMPLATE

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    # Of GLM-4V's processor, about its own arrays.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.fixture
def folder(tmp_path):
    """The folder of images, beside a secret one."""
    inside = tmp_path / "images"
    (inside / "deep").mkdir(parents=True)
    vision.picture_files(inside)
    (inside / "deep" / "a.png").write_bytes((inside / "a.png").read_bytes())
    (tmp_path / "secret.png").write_bytes((inside / "c.png").read_bytes())
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    (inside / "linked").symlink_to(tmp_path)
    (inside / "own.png").symlink_to(inside / "c.png")
    return inside


@pytest.fixture(scope="module")
def make_client(tmp_path_factory, tokenizer):
    """Function of a family and settings: a client of the server with a tiny model of it, and its service."""
    folders, started = {}, []

    def make(family="qwen2_5_vl", **settings):
        if family not in folders:
            folders[family] = vision.save(family, tmp_path_factory.mktemp(family), tokenizer)
        settings = serve.ServeSettings(model=str(folders[family]), torch_dtype="fp32", **settings)
        settings.check()
        adapters = settings.named_adapters()
        service = serve._load(settings, "tiny", None, adapters, dict.fromkeys(adapters))
        service.scheduler.start()
        started.append(service)
        return TestClient(make_app(service), base_url="http://localhost"), service

    yield make
    for service in started:
        service.scheduler.close()


def body(*messages):
    return {"messages": list(messages), "max_tokens": 6, "temperature": 0}


def show(*urls, text="What is it?"):
    """A user's message with images before its text."""
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def data_url(path):
    return f"data:image/{path.suffix[1:]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def ask(client, *messages):
    reply = client.post("/v1/chat/completions", json=body(*messages))
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["message"]["content"]


def refusal(client, *messages):
    reply = client.post("/v1/chat/completions", json=body(*messages))
    assert reply.status_code == 400, reply.text
    return reply.json()["error"]["message"]


def test_files_of_the_folder(make_client, folder):
    """By relative name, or as file:// address; the answer is that to the image itself."""
    client, _ = make_client(image_folder=str(folder))
    wanted = ask(client, show(data_url(folder / "a.png")))
    for name in ("a.png", "deep/a.png", "deep/../a.png", f"file://{folder}/a.png", f"{folder}/a.png"):
        assert ask(client, show(name)) == wanted
    assert ask(client, show("own.png")) == ask(client, show(data_url(folder / "c.png")))


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png", "deep/../../secret.png", "{above}/secret.png", "file://{above}/secret.png",
        "link.png",
        "linked/secret.png", "file:///etc/passwd", "~/secret.png", "file://localhost{above}/secret.png",
        "{above}/images/../secret.png", "{above}/images-of-others/secret.png", "..%2fsecret.png",
        "file:///{above}%2f..%2fsecret.png", ".", "", "a.png\0", "FILE://{above}/secret.png",
    ],
)  # fmt: skip
def test_nothing_outside_of_the_folder(make_client, folder, name):
    """Neither by .., absolute paths or links, nor by an address; no error says where the folder is."""
    (folder.parent / "images-of-others").mkdir()
    (folder.parent / "images-of-others" / "secret.png").write_bytes((folder / "a.png").read_bytes())
    client, _ = make_client(image_folder=str(folder))
    told = refusal(client, show(name.format(above=folder.parent)))
    assert told.startswith("messages.0.content.0.image_url: ")
    assert str(folder) not in told.replace(name.format(above=folder.parent), "")


def test_without_a_folder_nothing_is_read(make_client, folder, monkeypatch):
    """Neither files nor addresses."""
    client, _ = make_client()
    monkeypatch.chdir(folder)
    for name in ("a.png", f"file://{folder}/a.png", str(folder / "a.png")):
        assert "this server reads no files: send the image itself" in refusal(client, show(name))
    assert "this server fetches nothing from https" in refusal(client, show("https://example.org/a.png"))
    assert "this server fetches nothing from s3" in refusal(client, show("s3://bucket/a.png"))


def test_clients_are_answered_in_english(make_client, folder, monkeypatch, caplog):
    """Whatever the server's log speaks: what it says of requests itself, of their files, and of its model."""
    client, service = make_client(image_folder=str(folder))
    monkeypatch.setenv("XTUNER_LANG", "zh")
    told = [refusal(client, show("none.png")), refusal(client, show("data:image/png;base64,AAAA"))]
    told += [refusal(client, {"role": "assistant", "content": "hello"})]
    monkeypatch.setattr(service.scheduler.engine, "step", lambda *_: 1 / 0)
    reply = client.post("/v1/chat/completions", json=body({"role": "user", "content": "hello"}))
    told.append(reply.json()["error"]["message"])
    assert [text for text in told if not text.isascii()] == []
    assert len(set(told)) == 4


def test_a_missing_folder_is_one_line(capsys, llama_dir):
    """Before anything is loaded."""
    assert cli.main(["serve", str(llama_dir), "--image-folder", "no/such"]) == 1
    assert "--image-folder no/such: there is no such folder" in capsys.readouterr().err


@pytest.fixture
def site(folder, monkeypatch):
    """The address of a web server with the images, which counts as public."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(web, "is_public", lambda address: address == "127.0.0.1")
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_images_of_the_web(make_client, folder, site, monkeypatch):
    """With --fetch-images from public addresses, not larger than a request may be."""
    client, _ = make_client(fetch_images=True)
    wanted = ask(client, show(data_url(folder / "a.png"), data_url(folder / "b.jpg")))
    assert ask(client, show(f"{site}/a.png", f"{site}/b.jpg")) == wanted
    assert "this server reads no files" in refusal(client, show("a.png"))
    assert "cannot be fetched: HTTP Error 404" in refusal(client, show(f"{site}/no.png"))
    monkeypatch.setattr(web, "is_public", lambda address: False)
    assert "is not fetched from: it is no public address" in refusal(client, show(f"{site}/a.png"))
    monkeypatch.setattr(web, "is_public", lambda address: True)
    (folder / "long.png").write_bytes((folder / "a.png").read_bytes() + bytes(1000))
    small, _ = make_client(fetch_images=True, max_request_bytes=1000)
    assert "has more than 1,000 bytes" in refusal(small, show(f"{site}/long.png"))


def test_a_slow_site_delays_no_other_image(make_client, folder, monkeypatch):
    """An image in a request is read while others are fetched."""
    client, _ = make_client(fetch_images=True)
    begun, go_on = threading.Event(), threading.Event()

    def slow(*arguments):
        begun.set()
        assert go_on.wait(20)
        return (folder / "a.png").read_bytes()

    monkeypatch.setattr(images, "read_public", slow)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, client, show("http://slow.test/a.png"))
        assert begun.wait(20)
        wanted = ask(client, show(data_url(folder / "a.png")))
        go_on.set()
        assert waiting.result() == wanted


def test_images_that_fill_the_memory_are_refused(make_client, folder):
    """The pixels of all requests are limited, waiting ones included; afterwards there is room again."""
    client, service = make_client()
    service.images._max_held = 1
    held = service.prompts.pictures.read(folder / "a.png")
    reply = client.post("/v1/chat/completions", json=body(show(data_url(folder / "b.jpg"))))
    assert (reply.status_code, reply.headers["Retry-After"]) == (429, "1")
    assert "the images of waiting requests fill the memory" in reply.text
    del held
    assert ask(client, show(data_url(folder / "b.jpg")))


def test_images_in_several_messages(make_client, folder):
    """In chat and responses: each at its place among the texts; a dialogue's next turn reuses its keys."""
    client, service = make_client(image_folder=str(folder))
    between = [
        {"type": "text", "text": "Is "},
        {"type": "image_url", "image_url": {"url": "a.png"}},
        {"type": "text", "text": " like "},
        {"type": "image_url", "image_url": {"url": "b.jpg"}},
        {"type": "text", "text": "?"},
    ]
    messages = [
        {"role": "user", "content": between},
        {"role": "assistant", "content": "no"},
        show("c.png", text="And this?"),
    ]
    written = service.prompts.tokenizer.decode(
        [i for i in client.post("/tokenize", json={"messages": messages}).json()["tokens"] if i >= 0]
    )
    image = "<|vision_start|><|vision_end|>"
    assert written == (
        f"<|im_start|>user\nIs {image} like {image}?<|im_end|>\n<|im_start|>assistant\nno<|im_end|>\n"
        f"<|im_start|>user\n{image}And this?<|im_end|>\n<|im_start|>assistant\n"
    )
    first = client.post("/v1/chat/completions", json=body(*messages)).json()
    again = client.post("/v1/chat/completions", json=body(*messages)).json()
    assert first["choices"] == again["choices"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == first["usage"]["prompt_tokens"] - 1

    def as_input(message):
        if isinstance(message["content"], str):
            return message
        parts = [
            {"type": "input_image", "image_url": part["image_url"]["url"]}
            if part["type"] == "image_url"
            else {"type": "input_text", "text": part["text"]}
            for part in message["content"]
        ]
        return {**message, "content": parts}

    given = {"input": [as_input(message) for message in messages], "max_output_tokens": 6, "temperature": 0}
    reply = client.post("/v1/responses", json=given).json()
    assert reply["output"][0]["content"][0]["text"] == first["choices"][0]["message"]["content"]


def test_adapters_have_features_of_their_own(make_client, folder, tmp_path, tokenizer):
    """Requests to the base and to an adapter that changes the encoder, together, are those alone."""
    base = vision.save("qwen3_vl", tmp_path / "base", tokenizer)
    model = AutoModelForImageTextToText.from_pretrained(base)
    torch.manual_seed(1)
    lora = LoraConfig(r=4, lora_alpha=64, init_lora_weights=False, target_modules=["qkv", "q_proj"])
    get_peft_model(model, lora).save_pretrained(str(tmp_path / "poet"))
    client, _ = make_client("qwen3_vl", adapters=[str(tmp_path / "poet")], image_folder=str(folder))
    bodies = [{**body(show("a.png", "b.jpg")), "model": name} for name in ("tiny", "poet")]

    def told(wanted):
        return client.post("/v1/chat/completions", json=wanted).json()["choices"][0]["message"]["content"]

    alone = [told(one) for one in bodies]
    assert alone[0] != alone[1]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(told, bodies * 4)) == alone * 4


@pytest.mark.parametrize("text", ["\ufdd0image\ufdd1Hello", "\ufdd012345\ufdd1Hello", "<|image_pad|>Hello"])
def test_nobody_writes_an_image_as_text(make_client, text):
    """Marks and tokens of images in the text of a user are letters, or nothing."""
    client, service = make_client()
    found = client.post("/tokenize", json={"messages": [{"role": "user", "content": text}]}).json()["tokens"]
    control = service.prompts.tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|vision_start|>"])
    assert not {*control} & {*found}
    assert min(found) >= 0


@pytest.mark.parametrize("template", ["auto", "qwen_chat"])
def test_images_are_numbered_in_a_dialogue(template, make_client, folder):
    """As they stand in it: also after what a user typed, and from 0 if the oldest turns are dropped."""
    _, service = make_client("minicpmv4_6")
    prompts, pictures = service.prompts, service.prompts.pictures
    a, b, c = (pictures.read(folder / name) for name in ("a.png", "b.jpg", "c.png"))
    (token,) = prompts.tokenizer.convert_tokens_to_ids(pictures.vision.tokens)

    def numbers(context):
        writer = PromptWriter(prompts.tokenizer, context, pictures)
        messages = [
            {"role": "user", "content": f"{a.mark}{b.mark}Hi"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": f"{c.mark}<|im_end|>{a.mark}Same?"},
            {"role": "assistant", "content": "No"},
            {"role": "user", "content": f"{b.mark}Why?"},
        ]
        ids = writer.write(messages, PROMPT_TEMPLATE[template], None, 6).ids
        text = prompts.tokenizer.decode([token if i < 0 else i for i in ids])
        return re.findall("<image_id>(.*?)</image_id>", text), len(ids)

    found, length = numbers(None)
    assert found == ["0", "1", "2", "3", "4"]
    assert numbers(length + 5)[0] == ["0", "1", "2"]


@pytest.mark.parametrize("family", vision.KINDS)
def test_requests_together_with_every_family(make_client, folder, family):
    """Answers with none, one or two images, generated together, are those of a dialogue alone."""
    client, service = make_client(family, image_folder=str(folder))
    assert client.get("/v1/models").json()["data"][0]["input_modalities"] == ["text", "image"]
    shown = [[], ["a.png"], ["b.jpg", "c.png"]]
    wanted = []
    for names in shown:
        session = make_session(
            service.prompts.tokenizer, PROMPT_TEMPLATE.auto, pictures=service.prompts.pictures
        )
        for name in names:
            session.show(service.prompts.pictures.read(folder / name))
        ids = session.ask("What is it?", 6)
        options = {"max_new_tokens": 6, "temperature": 0, "stop_words": session.template["STOP_WORDS"]}
        pictures, model = service.prompts.pictures, service.scheduler.model
        wanted.append(complete(model, service.prompts.tokenizer, ids, pictures=pictures, **options).text)
    with ThreadPoolExecutor(6) as pool:
        told = list(pool.map(lambda names: ask(client, show(*names)), shown * 3))
    assert told == wanted * 3
