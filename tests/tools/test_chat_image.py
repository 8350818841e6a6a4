"""`xtuner chat` about an image, with a tiny LLaVA in both layouts."""

import io
import json
import shutil

import pytest
import torch

from tests.llava import picture_file, save_projector
from xtuner import cli
from xtuner.chat.terminal import PROMPT
from xtuner.tools.chat import main

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
GREEDY = ("--max-new-tokens", 6, "--torch-dtype", "fp32", "--temperature", 0)


@pytest.fixture
def chat(monkeypatch, capsys):
    """Run the command with `script` on stdin; returns its answers."""

    def run(*argv, script="hello\n\nwho are you?\n\n"):
        monkeypatch.setattr("sys.stdin", io.StringIO(script))
        assert main([str(a) for a in (*argv, *GREEDY)]) == 0
        return [part.strip("\n") for part in capsys.readouterr().out.split(PROMPT)[1:-1]]

    return run


def test_both_layouts_give_the_answers_of_transformers(llava, picture, chat):
    """The image precedes the first question and is in the context of the second."""
    from PIL import Image
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    template = ("--prompt-template", "default", "--image", picture)
    whole = chat(llava.whole, *template)
    assert chat(llava.llm, "--llava", llava.parts, "--visual-encoder", llava.clip, *template) == whole

    model = LlavaForConditionalGeneration.from_pretrained(llava.whole).eval()
    processor = LlavaProcessor.from_pretrained(llava.whole, backend="pil")
    first = "<s><|User|>:<image>\nhello\n<|Bot|>:"
    inputs = processor(images=Image.open(picture), text=first, return_tensors="pt")
    row = inputs["input_ids"]
    told = []
    for question in ("", "</s>\n<s><|User|>:who are you?\n<|Bot|>:"):
        if question:
            ids = processor.tokenizer.encode(question, add_special_tokens=False)
            row = torch.cat([row, torch.tensor([ids])], 1)
        with torch.no_grad():
            pixels, mask = inputs["pixel_values"], torch.ones_like(row)
            out = model.generate(
                input_ids=row, pixel_values=pixels, attention_mask=mask, max_new_tokens=6, do_sample=False
            )
        told.append(processor.tokenizer.decode(out[0, row.shape[1] :]))
        row = out
    assert whole == told


def test_several_images_give_the_answers_of_transformers(llava, picture, tmp_path, chat):
    """Two precede the first question and one the second, each on a line, in both layouts."""
    from PIL import Image
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    files = [
        picture,
        picture_file(tmp_path / "b.png", (0, 250, 0), (60, 60)),
        picture_file(tmp_path / "c.png", (0, 0, 250), (40, 90)),
    ]
    template = ("--prompt-template", "default", "--image", files[0], "--image", files[1])
    script = f"hello\n\n/image {files[2]}\n\nwho are you?\n\n"
    whole = chat(llava.whole, *template, script=script)
    parts = ("--llava", llava.parts, "--visual-encoder", llava.clip)
    assert chat(llava.llm, *parts, *template, script=script) == whole
    model = LlavaForConditionalGeneration.from_pretrained(llava.whole).eval()
    processor = LlavaProcessor.from_pretrained(llava.whole, backend="pil")
    text, told = "<s><|User|>:<image>\n<image>\nhello\n<|Bot|>:", []
    for count in (2, 3):
        shown = [Image.open(file) for file in files[:count]]
        inputs = processor(images=shown, text=text, return_tensors="pt")
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=6, do_sample=False)
        told.append(processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :]))
        text += f"{told[-1]}</s>\n<s><|User|>:<image>\nwho are you?\n<|Bot|>:"
    assert [whole[0], whole[2]] == told


def test_reset_and_text_alone(llava, picture, tmp_path, chat):
    """After RESET the image is there again; another image, or none, gives another answer."""
    about = ("--prompt-template", "default", "--image")
    hello, _, again = chat(llava.whole, *about, picture, script="hello\n\nRESET\n\nhello\n\n")
    assert hello == again
    other = picture_file(tmp_path / "dog.jpg", (0, 250, 0), (60, 60))
    text = chat(llava.whole, "--prompt-template", "default", script="hello\n\n")
    assert len({hello, *chat(llava.whole, *about, other, script="hello\n\n"), *text}) == 3


@pytest.fixture
def refused(llava, picture, capsys, monkeypatch):
    """A function that returns the error of the command, which ends with code 1."""
    monkeypatch.setattr("sys.stdin", io.StringIO("hello"))

    def run(*argv):
        assert cli.main(["chat", *map(str, argv), *map(str, GREEDY)]) == 1
        return capsys.readouterr().err.strip().splitlines()[-1]

    return run


def test_files_that_are_no_image(llava, tmp_path, picture, refused, monkeypatch):
    """A missing, invalid, truncated or far too large file is one line."""
    assert "There is no image no/cat.png" in refused(llava.whole, "--image", "no/cat.png")
    text = tmp_path / "notes.png"
    text.write_text("a cat")
    assert f"{text} is not an image: PNG, JPEG" in refused(llava.whole, "--image", text)
    cut = tmp_path / "cut.png"
    cut.write_bytes(picture.read_bytes()[:-40])
    assert f"the image {cut} is damaged or cut off" in refused(llava.whole, "--image", cut)
    monkeypatch.setattr("xtuner.dataset.images.decode.MAX_PIXELS", 1000)
    assert f"{picture} is too large: 80 x 48 pixels; at most 1,000" in refused(
        llava.whole, "--image", picture
    )


def test_parts_that_do_not_match(llava, tmp_path, picture, refused):
    """Parts of other models are refused before anything is loaded."""
    about = ("--image", picture)
    assert "with --visual-encoder" in refused(llava.llm, "--llava", llava.parts, *about)
    clip = ("--visual-encoder", llava.clip)
    assert "this is a whole LLaVA model" in refused(llava.llm, "--llava", llava.whole, *clip, *about)
    assert "no projector/config.json" in refused(llava.llm, "--llava", tmp_path, *clip, *about)
    not_clip = ("--visual-encoder", llava.llm)
    assert "is not a CLIP or SigLIP: its family is 'llama'" in refused(
        llava.llm, "--llava", llava.parts, *not_clip
    )
    layer = ("--visual-select-layer", 9)
    assert "has the layers -4 to 3" in refused(llava.llm, "--llava", llava.parts, *clip, *layer)
    wide = torch.nn.Sequential(torch.nn.Linear(32, 48), torch.nn.GELU(), torch.nn.Linear(48, 48))
    save_projector(tmp_path / "wide" / "projector", wide)
    told = refused(llava.llm, "--llava", tmp_path / "wide", *clip)
    assert "was made for another model" in told
    assert "its llm_hidden_size is 48, and" in told


def test_damaged_parts(llava, tmp_path, refused):
    """Missing weights, or ones whose shape differs from their config, are named."""
    clip = ("--visual-encoder", llava.clip)
    parts = shutil.copytree(llava.parts, tmp_path / "parts")
    weights = parts / "projector" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert "model.safetensors cannot be read as weights" in refused(llava.llm, "--llava", parts, *clip)
    weights.unlink()
    assert "has no weights" in refused(llava.llm, "--llava", parts, *clip)
    bare = shutil.copytree(llava.clip, tmp_path / "clip")
    (bare / "preprocessor_config.json").unlink()
    told = refused(llava.llm, "--llava", llava.parts, "--visual-encoder", bare)
    assert "has no preprocessor_config.json" in told


def test_a_llava_without_the_config_of_its_parts(llava, tmp_path, picture, refused):
    """Transformers would use random values for weights of other names; so does no command."""
    folder = shutil.copytree(llava.whole, tmp_path / "official")
    config = json.loads((folder / "config.json").read_text())
    mine = {name: value for name, value in config.items() if name not in ("vision_config", "text_config")}
    fields = {**mine, **config["text_config"], "model_type": "llava"}
    classes = {"LlamaForCausalLM": "is not supported", "LlavaLlamaForCausalLM": "mm_vision_tower = ''"}
    for name, told in classes.items():
        (folder / "config.json").write_text(json.dumps({**fields, "architectures": [name]}))
        assert told in refused(folder)
    tower = {"mm_vision_tower": str(llava.clip), "mm_projector_type": "mlp2x_gelu"}
    (folder / "config.json").write_text(json.dumps({**fields, **tower, "architectures": [name]}))
    assert "lack lm_head.weight, under its name" in refused(folder, "--image", picture)


def test_an_adapter_of_another_base(llava, tmp_path, refused):
    """An adapter that was made for another LLM is refused."""
    from safetensors.torch import load_file, save_file

    parts = shutil.copytree(llava.parts, tmp_path / "parts")
    file = parts / "llm_adapter" / "adapter_model.safetensors"
    wrong = {k: v[:, :32].contiguous() if "lora_A" in k else v for k, v in load_file(file).items()}
    save_file(wrong, file)
    told = refused(llava.llm, "--llava", parts, "--visual-encoder", llava.clip)
    assert "was made for another base model" in told


def test_parts_in_the_folder(llava, picture, tmp_path, chat):
    """The folder has a trained visual encoder or its adapter; both have other features."""
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file
    from transformers import CLIPVisionModel

    about = ("--prompt-template", "default", "--image", picture)
    clip = ("--visual-encoder", llava.clip)
    plain = chat(llava.llm, "--llava", llava.parts, *clip, *about)
    parts = shutil.copytree(llava.parts, tmp_path / "parts")
    shutil.copytree(llava.clip, parts / "visual_encoder")
    assert chat(llava.llm, "--llava", parts, *about) == plain
    tuned = get_peft_model(
        CLIPVisionModel.from_pretrained(llava.clip),
        LoraConfig(r=2, lora_alpha=64, init_lora_weights=False, target_modules=["q_proj", "fc1"]),
    )
    adapted = shutil.copytree(llava.parts, tmp_path / "adapted")
    tuned.save_pretrained(str(adapted / "visual_encoder_adapter"))
    seen = chat(llava.llm, "--llava", adapted, *clip, *about)
    assert seen != plain
    # Older versions of transformers have one more module in the names.
    file = adapted / "visual_encoder_adapter" / "adapter_model.safetensors"
    old = {
        k.replace("base_model.model.", "base_model.model.vision_model."): v
        for k, v in load_file(file).items()
    }
    save_file(old, file)
    assert chat(llava.llm, "--llava", adapted, *clip, *about) == seen
    merged = shutil.copytree(parts, tmp_path / "merged")
    whole = tuned.merge_and_unload()
    whole.save_pretrained(merged / "visual_encoder")
    assert chat(llava.llm, "--llava", merged, *about) == seen


def test_a_dialogue_about_an_image_is_saved_and_loaded(llava, picture, tmp_path, chat, monkeypatch):
    """The file is a row of LLaVA's training data; the loaded dialogue continues with the same answers."""
    about = ("--prompt-template", "default", "--image", picture)
    file = tmp_path / "talk.json"
    said = chat(llava.whole, *about, script=f"hello\n\n/save {file}\n\nwho are you?\n\n")
    (row,) = json.loads(file.read_text())
    first = {"input": "<image>\nhello", "output": said[0]}
    assert row == {"image": str(picture), "conversation": [first]}
    resumed = f"/load {file}\n\nwho are you?\n\n"
    assert chat(llava.whole, *about, script=resumed)[1] == said[2]
    assert chat(llava.whole, "--prompt-template", "default", script=resumed)[1] == said[2]
    warned = []
    monkeypatch.setattr("xtuner.chat.saved.logger.warning", lambda *words: warned.append(words[0]))
    chat(llava.llm, "--prompt-template", "default", script=f"/load {file}\n\n")
    assert warned == ["%s is about images, which this model does not read"]


def test_the_image_is_encoded_once(llava, picture):
    """Its keys are kept: a second turn reads only new tokens, another adapter reads all again."""
    from xtuner.chat.answer import Answerer
    from xtuner.chat.session import make_session
    from xtuner.chat.settings import Settings
    from xtuner.generation.pictures import Pictures
    from xtuner.generation.vision import LlavaVision
    from xtuner.model.loading import load_for_chat
    from xtuner.model.vision.image_encoder import load_image_encoder

    model, tokenizer = load_for_chat(llava.whole, dtype="fp32")
    pictures = Pictures(LlavaVision(load_image_encoder(model, tokenizer, llava.whole)))
    seen = []
    encode = pictures.vision.encode
    pictures.vision.encode = lambda read: seen.append(1) or encode(read)
    shown = pictures.read(picture)
    session = make_session(tokenizer, None, pictures=pictures, opening=[shown])
    answer = Answerer(model, tokenizer, session, Settings(str(llava.whole), max_new_tokens=4, temperature=0))
    answer("hello", lambda text: None)
    told = answer("again", lambda text: None)
    assert len(seen) == 1
    assert told.reused > shown.length
    answer.use(model)
    answer("again", lambda text: None)
    assert len(seen) == 2


@pytest.mark.parametrize("template", ["default", "auto"])
def test_the_image_outlives_the_first_question(llava, picture, template):
    """If the context is full the oldest turn is dropped; the image precedes the first one left."""
    from transformers import AutoTokenizer

    from xtuner.chat.session import make_session
    from xtuner.generation.generate import Completion
    from xtuner.generation.pictures import Pictures
    from xtuner.generation.vision import LlavaVision
    from xtuner.model.loading import load_for_chat
    from xtuner.model.vision.image_encoder import load_image_encoder
    from xtuner.utils import PROMPT_TEMPLATE

    model, _ = load_for_chat(llava.whole, dtype="fp32")
    tokenizer = AutoTokenizer.from_pretrained(llava.whole, chat_template=LLAVA_TEMPLATE)
    pictures = Pictures(LlavaVision(load_image_encoder(model, tokenizer, llava.whole)))
    shown = pictures.read(picture)
    chosen = PROMPT_TEMPLATE[template]
    session = make_session(tokenizer, chosen, context=90, pictures=pictures, opening=[shown])
    for number in range(6):
        ids = session.ask(f"question {number}", 4)
        assert [i for i in ids if i < 0] == shown.ids
        assert len(ids) <= 86
        session.answered(f"question {number}", Completion("yes", tokenizer.encode("yes"), "end", 0.0), set())
    assert 0 < len(session.turns) < 6
    text = tokenizer.decode([i for i in ids if i >= 0])
    assert "question 0" not in text
    assert "question 5" in text


LLAVA_TEMPLATE = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ c['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def test_the_template_of_the_model(llava, picture, tmp_path):
    """A chat template that supports content parts writes the same as transformers' processor."""
    from transformers import AutoTokenizer, LlavaProcessor

    from xtuner.chat.session import make_session
    from xtuner.generation.pictures import Pictures
    from xtuner.generation.vision import LlavaVision
    from xtuner.model.loading import load_for_chat
    from xtuner.model.vision.image_encoder import load_image_encoder
    from xtuner.utils import PROMPT_TEMPLATE

    model, _ = load_for_chat(llava.whole, dtype="fp32")
    tokenizer = AutoTokenizer.from_pretrained(llava.whole, chat_template=LLAVA_TEMPLATE)
    pictures = Pictures(LlavaVision(load_image_encoder(model, tokenizer, llava.whole)))
    session = make_session(
        tokenizer, PROMPT_TEMPLATE.auto, pictures=pictures, opening=[pictures.read(picture)]
    )
    ids = session.ask("what is <image>?", 4)
    processor = LlavaProcessor.from_pretrained(llava.whole, backend="pil")
    parts = [{"type": "image", "path": str(picture)}, {"type": "text", "text": "what is it?"}]
    theirs = processor.apply_chat_template(
        [{"role": "user", "content": parts}],
        chat_template=LLAVA_TEMPLATE,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
    )["input_ids"][0]
    token = model.config.image_token_id
    as_theirs = [token if i < 0 else i for i in session.ask("what is it?", 4)]
    assert as_theirs == theirs
    assert ids.count(token) == 1
