"""InternLM's tokenizers as fast ones, built from the sentencepiece file, without remote code.

    tokenizer.model          pieces with scores, normalizer_spec, trainer_spec
    tokenizer_config.json    if there: special and added tokens, chat template, add_bos_token
    -> tokenizers.Tokenizer  the ids of the sentencepiece library, in batches and threads

    text            "Hi  <|im_end|>"                    added tokens are cut out first, unchanged
    normalised      "▁Hi▁▁", <|im_end|>                 "▁" in front only if the file's spec sets it
    pieces          ["▁Hi", "▁▁", "<|im_end|>"]         merged in the order of the pieces' scores

Byte-pair models only, which all InternLM models are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from xtuner.errors import ModelError
from xtuner.language import translate

SPACE = "▁"
# Piece types of sentencepiece_model.proto.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_BPE_MODEL = 2
_ANY_NUMBER = 2**20


class InternLM2Tokenizer(PreTrainedTokenizerFast):
    """A fast tokenizer that reads `tokenizer.model`; what it saves loads with plain transformers."""

    vocab_files_names = {"vocab_file": "tokenizer.model", "tokenizer_file": "tokenizer.json"}  # noqa: RUF012

    @classmethod
    def convert_to_native_format(cls, trust_remote_code: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Arguments of the constructor: those of the folder, with the backend built from its files."""
        kwargs.pop("auto_map", None)
        vocab_file = kwargs.pop("vocab_file", None)
        if kwargs.get("tokenizer_file") or vocab_file is None:
            return super().convert_to_native_format(trust_remote_code=trust_remote_code, **kwargs)
        kwargs.pop("tokenizer_file", None)
        added = {int(i): str(token) for i, token in (kwargs.get("added_tokens_decoder") or {}).items()}
        kwargs["tokenizer_object"] = backend_from_sentencepiece(vocab_file, added)
        defaults = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
        return {**defaults, "add_bos_token": True, "add_eos_token": False, **kwargs}

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        wanted = {int(i): str(token) for i, token in (kwargs.get("added_tokens_decoder") or {}).items()}
        for token_id, token in wanted.items():
            if self.convert_tokens_to_ids(token) != token_id:
                raise ModelError(
                    translate(
                        "added_tokens_decoder in tokenizer_config.json gives {token!r} the id "
                        "{token_id}, and the vocabulary gives it {own_id}",
                        token=token,
                        token_id=token_id,
                        own_id=self.convert_tokens_to_ids(token),
                    )
                )

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        """Save files that any fast tokenizer class can read; they name no class of ours."""
        files = super().save_pretrained(save_directory, *args, **kwargs)
        path = Path(save_directory) / "tokenizer_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return files


class InternLMTokenizer(InternLM2Tokenizer):
    """The same for the first InternLM, which differs only in its `tokenizer.model`."""


def register_tokenizers() -> None:
    """Let AutoTokenizer use these classes for the hub's class names, with or without its Python files."""
    from transformers.models.auto import tokenization_auto

    for tokenizer_class in (InternLMTokenizer, InternLM2Tokenizer):
        tokenization_auto.REGISTERED_TOKENIZER_CLASSES[tokenizer_class.__name__] = tokenizer_class
    # transformers would read InternLM2's file with its generic converter.
    tokenization_auto.TOKENIZER_MAPPING_NAMES.pop("internlm2", None)


def backend_from_sentencepiece(path: str | Path, added: Mapping[int, str] | None = None) -> Tokenizer:
    """The fast backend for a sentencepiece file; `added` renames reserved pieces: id -> token."""
    proto = _read(Path(path))
    spec = proto.normalizer_spec
    vocab = _vocabulary(proto, added or {})
    taken = set((added or {}).values())
    own_symbols = [
        p.piece for p in proto.pieces if p.type == _USER_DEFINED and p.piece in vocab and p.piece not in taken
    ]
    unknown = next((p.piece for p in proto.pieces if p.type == _UNKNOWN), "<unk>")
    backend = Tokenizer(
        BPE(
            vocab,
            _merges(proto, vocab),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=proto.trainer_spec.byte_fallback,
            # No merges produce a user-defined symbol; it is always one piece.
            ignore_merges=bool(own_symbols),
        )
    )
    backend.normalizer = _normalizer(spec)
    if own_symbols:
        longest_first = sorted(own_symbols, key=len, reverse=True)
        pattern = Regex("|".join(_escape(symbol) for symbol in longest_first))
        backend.pre_tokenizer = pre_tokenizers.Split(pattern, "isolated")
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if spec.remove_extra_whitespaces:
        steps.append(decoders.Strip(" ", _ANY_NUMBER, 0))
    elif spec.add_dummy_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    backend.decoder = decoders.Sequence(steps)
    return backend


def _read(path: Path) -> Any:
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    try:
        proto.ParseFromString(path.read_bytes())
    except Exception as error:
        raise ModelError(
            translate("{path} is not a sentencepiece model: {error}", path=path, error=error)
        ) from error
    if not proto.pieces:
        raise ModelError(translate("{path} is not a sentencepiece model: it has no pieces", path=path))
    if proto.trainer_spec.model_type != _BPE_MODEL:
        raise ModelError(
            translate("{path} is not a byte-pair model, as InternLM's tokenizers are", path=path)
        )
    if proto.trainer_spec.treat_whitespace_as_suffix:
        raise ModelError(
            translate(
                "{path} puts spaces behind words (treat_whitespace_as_suffix), which is not supported",
                path=path,
            )
        )
    return proto


def _vocabulary(proto: Any, added: Mapping[int, str]) -> dict[str, int]:
    """piece -> id; reserved pieces have their names in `added`."""
    return {added.get(i, piece.piece): i for i, piece in enumerate(proto.pieces)}


def _merges(proto: Any, vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    """All pairs that make a piece, best score first; sentencepiece itself keeps scores of pieces only."""
    parts = {
        p.piece for p in proto.pieces if p.type in (_NORMAL, _USER_DEFINED, _UNUSED) and p.piece in vocab
    }
    ranked = sorted(
        (
            (-p.score, i, p.piece)
            for i, p in enumerate(proto.pieces)
            if p.type == _NORMAL and len(p.piece) > 1
        ),
    )
    merges = []
    for _, _, piece in ranked:
        pairs = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        merges += [pair for pair in pairs if pair[0] in parts and pair[1] in parts and piece in vocab]
    return merges


def _normalizer(spec: Any) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Replace(Regex(r"\A +"), "")]
    space = SPACE if spec.escape_whitespaces else " "
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(space))
    if spec.escape_whitespaces:
        steps.append(normalizers.Replace(" ", SPACE))
    if spec.remove_extra_whitespaces:  # last, since a written "▁" at the end is cut off too
        steps.append(normalizers.Replace(Regex(space + r"+\z"), ""))
    return normalizers.Sequence(steps)


def _escape(text: str) -> str:
    return re.sub(r"([^\w\s▁])", r"\\\1", text)
