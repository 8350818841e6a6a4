import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from xtuner.errors import ModelError
from xtuner.model.internlm_tokenizer import InternLM2Tokenizer, InternLMTokenizer, backend_from_sentencepiece
from xtuner.model.tokenizer import load_tokenizer

SYMBOLS = ["<eoh>", "<eoa>", "<eo", "    ", "[UNUSED_TOKEN_1]"]
SPECS = {
    "prefix": {"add_dummy_prefix": True},
    "no_prefix": {"add_dummy_prefix": False},
    "prefix_symbols": {"add_dummy_prefix": True, "user_defined_symbols": SYMBOLS},
    "no_prefix_symbols": {"add_dummy_prefix": False, "user_defined_symbols": [*SYMBOLS, "\n"]},
    "whitespace_pieces": {"add_dummy_prefix": True, "allow_whitespace_only_pieces": True},
    "trimmed": {"remove_extra_whitespaces": True},
}
PARTS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        [
            "hello",
            "你是谁",
            "助手",
            "  ",
            "    ",
            "\n",
            "\t",
            "😀",
            "👨‍👩‍👧",
            "é",
            "▁",
            "return a + b",
            *SYMBOLS,
        ]
    ),
)
# The library takes a control symbol in a text for plain characters; here, as in all of transformers, it is
# that symbol.
CONTROLS = ("<unk>", "<s>", "</s>")
TEXTS = st.lists(PARTS, max_size=8).map("".join).filter(lambda text: not any(c in text for c in CONTROLS))


@pytest.fixture(scope="module")
def pair_of(tmp_path_factory, train_sentencepiece):
    """A function from a spec to the sentencepiece processor and our backend of the same file."""
    import sentencepiece

    folder, made = tmp_path_factory.mktemp("spm"), {}
    for name, spec in SPECS.items():
        path = train_sentencepiece(folder / f"{name}.model", **spec)
        made[name] = (
            sentencepiece.SentencePieceProcessor(model_file=str(path)),
            backend_from_sentencepiece(path),
        )
    return lambda spec: made[spec]


@pytest.mark.parametrize("spec", sorted(SPECS))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS)
def test_ids_and_decoded_text_are_those_of_the_sentencepiece_library(pair_of, spec, text):
    """Any text, under every spec: Chinese, emoji, whitespace runs, newlines, user-defined symbols."""
    library, ours = pair_of(spec)
    ids = library.encode(text)
    assert ours.encode(text, add_special_tokens=False).ids == ids
    assert ours.decode(ids) == library.decode(ids)


def test_a_folder_with_tokenizer_model_alone_is_enough(internlm2_dir):
    """AutoTokenizer, called as in configs, returns our fast tokenizer: BOS in front, `</s>` as padding."""
    tokenizer = AutoTokenizer.from_pretrained(internlm2_dir, trust_remote_code=True, padding_side="right")
    assert type(tokenizer) is InternLM2Tokenizer
    assert tokenizer.is_fast
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<s>", "</s>", "</s>")
    ids = tokenizer("你是谁？ hello").input_ids
    assert ids[0] == tokenizer.bos_token_id == 1
    assert ids[-1] != tokenizer.eos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == "你是谁？ hello"


@pytest.fixture
def chat_dir(internlm2_dir, tmp_path):
    """A folder as InternLM2-chat's: reserved pieces renamed, Python files named that are not there."""
    for name in ("config.json", "tokenizer.model"):
        (tmp_path / name).write_bytes((internlm2_dir / name).read_bytes())
    plain = AutoTokenizer.from_pretrained(internlm2_dir)
    names = {"[UNUSED_TOKEN_2]": "<|im_end|>", "[UNUSED_TOKEN_3]": "<|im_start|>"}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config = {
        "tokenizer_class": "InternLM2Tokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
        "added_tokens_decoder": {
            str(plain.convert_tokens_to_ids(old)): {"content": new, **flags} for old, new in names.items()
        },
        "additional_special_tokens": list(names.values()),
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
        "unk_token": "<unk>",
        "chat_template": "{{ messages[0]['content'] }}",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def test_added_tokens_replace_reserved_pieces(chat_dir, internlm2_dir):
    """`<|im_start|>` is one token with the reserved id; remote code named in the folder is not needed."""
    tokenizer = AutoTokenizer.from_pretrained(chat_dir, trust_remote_code=True)
    assert type(tokenizer) is InternLM2Tokenizer
    plain = AutoTokenizer.from_pretrained(internlm2_dir)
    start, end = (plain.convert_tokens_to_ids(f"[UNUSED_TOKEN_{i}]") for i in (3, 2))
    hello = plain("hello", add_special_tokens=False).input_ids
    assert tokenizer("<|im_start|>hello<|im_end|>", add_special_tokens=False).input_ids == [
        start,
        *hello,
        end,
    ]
    assert len(tokenizer) == len(plain)


def test_what_it_saves_loads_with_plain_transformers(chat_dir, tmp_path):
    """tokenizer.json is complete: same ids, chat template and special tokens, no class of ours named."""
    tokenizer = load_tokenizer(chat_dir)
    saved = tmp_path / "saved"
    tokenizer.save_pretrained(saved)
    assert "internlm" not in (saved / "tokenizer_config.json").read_text().lower()
    again = PreTrainedTokenizerFast.from_pretrained(saved)
    text = "<|im_start|>user\n你好，  world 😀<|im_end|>\n"
    assert again(text).input_ids == tokenizer(text).input_ids
    assert again.chat_template == tokenizer.chat_template
    assert again.pad_token == "</s>"
    (saved / "config.json").write_bytes((chat_dir / "config.json").read_bytes())
    assert (
        AutoTokenizer.from_pretrained(saved, trust_remote_code=True)(text).input_ids == again(text).input_ids
    )


def test_the_first_internlm_too(sizes, tmp_path, train_sentencepiece):
    """Its files have the dummy prefix; tokens after `<s>` keep it."""
    from xtuner.model.internlm import InternLMConfig

    InternLMConfig(**sizes).save_pretrained(tmp_path)
    train_sentencepiece(tmp_path / "tokenizer.model", add_dummy_prefix=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=True)
    assert type(tokenizer) is InternLMTokenizer
    assert tokenizer.tokenize("hello world")[0].startswith("▁")
    assert tokenizer.decode(tokenizer("hello world").input_ids, skip_special_tokens=True) == "hello world"


def test_an_added_token_that_disagrees_with_the_vocabulary_is_an_error(chat_dir):
    """An id beyond the pieces cannot be kept."""
    path = chat_dir / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["added_tokens_decoder"]["900"] = {"content": "<|far|>", "special": True}
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"'<\|far\|>' the id 900, and the vocabulary gives it 400"):
        load_tokenizer(chat_dir)


def test_other_files_are_refused_by_name(tmp_path, train_sentencepiece):
    """Not a sentencepiece file, or not byte-pair."""
    (tmp_path / "bad.model").write_bytes(b"\xff\xff nonsense")
    with pytest.raises(ModelError, match=r"bad\.model is not a sentencepiece model"):
        backend_from_sentencepiece(tmp_path / "bad.model")
    path = train_sentencepiece(tmp_path / "unigram.model", model_type="unigram", vocab_size=330)
    with pytest.raises(ModelError, match=r"unigram\.model is not a byte-pair model"):
        backend_from_sentencepiece(path)
