"""Check that a folder holds a language model, and choose the auto class that loads it; without torch.

config.json   model_type "qwen3"                 ->  AutoModelForCausalLM
              "qwen2_5_vl", with a text_config   ->  AutoModelForImageTextToText: its language part is trained
              "qwen2_audio"                      ->  AutoModelForMultimodalLM
              "t5", "bert", "clip", unknown      ->  ModelError: one line with the family and what to do

The mappings of transformers are read from its source text, because importing it takes seconds.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from xtuner.errors import ConfigError, ModelError
from xtuner.extras import pip_install
from xtuner.families import FAMILIES, UNKNOWN, text_part
from xtuner.language import translate
from xtuner.llava_folder import check_supported, is_official
from xtuner.model_folder import check_model_folder, read_json, remote_code

CAUSAL = "AutoModelForCausalLM"
# What comes after AutoModelFor and AutoPeftModelFor of models that write no text.
OF_SEQUENCES, OF_TOKENS = "SequenceClassification", "TokenClassification"
SCORING = (OF_SEQUENCES, OF_TOKENS)
OF_VECTORS = "FeatureExtraction"
# The names of the labels in order, in the folder of an adapter, whose config.json has none.
LABELS_FILE = "labels.json"
# The methods whose models write no text; their classes are not imported here, which takes seconds.
WITHOUT_TEXT = ("EmbeddingModel", "ProcessRewardModel", "RewardModel", "SequenceClassifier")
_CURE = "name the folder of a language model"
# An assignment of a file's top level, up to the bracket that closes it, and the pairs in it.
_TABLE = re.compile(r"^(\w+_MAPPING_NAMES)(?: = |\.update\()(.*?)^\)", re.MULTILINE | re.DOTALL)
_PAIR = re.compile(r'"([^"\n]+)"(?:,|:)\s*"([^"\n]+)"')
# Tables of models that contain a language model.
_WHOLE = {
    "IMAGE_TEXT_TO_TEXT": "AutoModelForImageTextToText",
    "MULTIMODAL_LM": "AutoModelForMultimodalLM",
}
# Method of quantisation -> what transformers needs installed to load it: module, name on PyPI.
_PACKAGES = {
    "aqlm": {"aqlm": "aqlm"},
    "auto-round": {"auto_round": "auto-round"},
    "awq": {"gptqmodel": "gptqmodel"},
    "bitsandbytes": {"bitsandbytes": "bitsandbytes"},
    "compressed-tensors": {"compressed_tensors": "compressed-tensors"},
    "eetq": {"kernels": "kernels"},
    "fouroversix": {"fouroversix": "fouroversix"},
    "fp_quant": {"fp_quant": "fp_quant"},
    "gptq": {"optimum": "optimum", "gptqmodel": "gptqmodel"},
    "higgs": {"flute": "flute-kernel", "fast_hadamard_transform": "fast_hadamard_transform"},
    "hqq": {"hqq": "hqq"},
    "metal": {"kernels": "kernels"},
    "nvfp4": {"kernels": "kernels"},
    "quanto": {"optimum": "optimum-quanto"},
    "quark": {"quark": "amd-quark"},
    "sinq": {"sinq": "sinq"},
    "spqr": {"spqr_quant": "spqr_quant"},
    "torchao": {"torchao": "torchao"},
    "vptq": {"vptq": "vptq"},
}
# Weights that transformers widens while it reads them.
WIDENED = ("fp8", "mxfp4", "mxfp8")


def check_language_model(
    path: str | Path, *, trust_remote_code: bool = False, ask_hub: bool = True, writes_text: bool = True
) -> Mapping[str, Any] | None:
    """The config.json of a language model's folder, None for a hub name; else NotFoundError or ModelError.

    A name that may be one on the hub is looked for there unless `ask_hub` is false. With `writes_text` false
    the folder may have any head, or none.
    """
    check_model_folder(path, ask_hub=ask_hub)
    if not Path(path).is_dir():
        return None
    if writes_text and (Path(path) / "modules.json").is_file():
        raise ModelError(
            translate(
                "The folder {path} is a model of sentence-transformers, which makes vectors of "
                "texts and writes none; {cure}",
                path=path,
                cure=translate(_CURE),
            )
        )
    config = read_json(Path(path) / "config.json")
    if writes_text:
        auto_class(config, path, trust_remote_code=trust_remote_code)
    method = quantised_by(config)
    needed = _PACKAGES.get(method or "", {})
    if missing := [name for module, name in needed.items() if importlib.util.find_spec(module) is None]:
        raise ModelError(
            translate(
                "The weights of {path} are quantised with {method}, which needs {names}: "
                "{install}, or name the folder of the model in 16 bits",
                path=path,
                method=method,
                names=translate(" and ").join(missing),
                install=pip_install(*missing),
            )
        )
    return config


def check_training(config: Mapping[str, Any], path: str | Path, *, full: bool, asked: bool) -> None:
    """Raise ConfigError if quantised weights would be trained, or quantised again (`asked`)."""
    method = quantised_by(config)
    if method is None or method in WIDENED:
        return
    if full:
        raise ConfigError(
            translate(
                "The weights of {path} are quantised with {method}, so they cannot be trained "
                "themselves: set model.lora = dict(type=LoraConfig, ...), or name the folder of "
                "the model in 16 bits",
                path=path,
                method=method,
            )
        )
    if asked and method != "bitsandbytes":
        raise ConfigError(
            translate(
                "The weights of {path} are quantised with {method} already: remove "
                "model.llm.quantization_config (new-cfg: --method lora)",
                path=path,
                method=method,
            )
        )


def quantised_by(config: Mapping[str, Any]) -> str | None:
    """The quantisation method in a config.json; None if the weights are not quantised."""
    for part in (config, text_part(config) or {}):
        found = part.get("quantization_config") or part.get("compression_config")
        if isinstance(found, Mapping):
            return str(found.get("quant_method") or "bitsandbytes")
    return None


def auto_class(config: Mapping[str, Any], path: str | Path, *, trust_remote_code: bool = False) -> str:
    """The name of the auto class that loads the model in `path` by its config; ModelError if none does."""
    family = config.get("model_type")
    if not isinstance(family, str) or not family:
        raise ModelError(
            translate(
                "{path}/config.json names no model_type, so no one knows what it is; {cure}",
                path=path,
                cure=translate(_CURE),
            )
        )
    if is_official(config):
        check_supported(config, path)
        return _WHOLE["IMAGE_TEXT_TO_TEXT"]
    row = FAMILIES.get(family, UNKNOWN)
    if (row.ours and not is_classifier(config)) or not known_families():
        return _WHOLE["IMAGE_TEXT_TO_TEXT"] if row.images else CAUSAL
    if row.ours:
        raise ModelError(_not_a_language_model(config, path))
    if family not in known_families():
        return _of_remote_code(config, path, trust_remote_code)
    if reason := row.no_text:
        raise ModelError(
            translate(
                "{path} is a model of the family '{family}', which {reason}",
                path=path,
                family=family,
                reason=translate(reason),
            )
        )
    found = _of_family(config, family)
    if found is None:
        raise ModelError(_not_a_language_model(config, path))
    return found


def is_classifier(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a model that scores or sorts texts, such as a reward model."""
    return (_saved_as(config) or "").endswith(tuple(f"For{head}" for head in SCORING))


def head_of(folder: str | Path) -> str | None:
    """What a model or adapter folder has in place of a head that writes text; None if it has that."""
    folder = Path(folder)
    vectors = OF_VECTORS if (folder / "modules.json").is_file() else None
    if (folder / "adapter_config.json").is_file():
        task = read_json(folder / "adapter_config.json").get("task_type")
        return {"SEQ_CLS": OF_SEQUENCES, "TOKEN_CLS": OF_TOKENS}.get(str(task), vectors)
    if not (folder / "config.json").is_file() or not is_classifier(
        config := read_json(folder / "config.json")
    ):
        return vectors
    return OF_TOKENS if (_saved_as(config) or "").endswith(OF_TOKENS) else OF_SEQUENCES


def _not_a_language_model(config: Mapping[str, Any], path: str | Path) -> str:
    family = config["model_type"]
    return translate(
        "{path} is a model of the family '{family}', which {why_not}; {cure}",
        path=path,
        family=family,
        why_not=_why_not(config, family),
        cure=translate(_CURE),
    )


def known_families() -> frozenset[str]:
    """The families that the installed transformers knows; empty if its source text cannot be parsed."""
    return frozenset(_tables().get("CONFIG", {}))


def _of_remote_code(config: Mapping[str, Any], path: str | Path, trusted: bool) -> str:
    family, files = config["model_type"], remote_code(path)
    if not files:
        raise ModelError(
            translate(
                "transformers {installed} does not know the family '{family}' of {path}, and the "
                "folder brings no code of its own: a newer transformers may know it ({install})",
                installed=_installed(),
                family=family,
                path=path,
                install=pip_install("-U", "transformers"),
            )
        )
    if not trusted:
        raise ModelError(
            translate(
                "transformers does not know the family {family!r} of {path}, which brings code of "
                "its own: {names}. Read it, and if you trust it, set trust_remote_code=True in "
                "model.llm (xtuner chat: --trust-remote-code)",
                family=family,
                path=path,
                names=", ".join(files),
            )
        )
    if CAUSAL not in config["auto_map"]:
        raise ModelError(
            translate(
                "The code that {path} brings for its family '{family}' has no {causal} in auto_map "
                "of config.json, so it does not write text; {cure}",
                path=path,
                family=family,
                causal=CAUSAL,
                cure=translate(_CURE),
            )
        )
    return CAUSAL


def _of_family(config: Mapping[str, Any], family: str) -> str | None:
    """The auto class of a family that transformers knows; None if none loads it as it was saved."""
    causal = _tables()["CAUSAL_LM"].get(family)
    saved = _saved_as(config)
    for table, name in _WHOLE.items():
        whole = _tables()[table].get(family)
        if whole is not None and (causal in (None, whole) or saved != causal):
            return None if config.get("is_encoder_decoder") else name
    if causal is None:
        is_multimodal = isinstance(config.get("text_config"), Mapping)  # multimodal, and a decoder
        is_decoder = family in _tables()["SEQ_TO_SEQ_CAUSAL_LM"] and is_multimodal
        return "AutoModelForSeq2SeqLM" if is_decoder and not config.get("is_encoder_decoder") else None
    is_own = saved == causal
    if _is_encoder_decoder(config, family) and not (is_own and config.get("is_encoder_decoder") is False):
        return None
    if family in _tables()["MASKED_LM"] and not config.get("is_decoder"):
        return None
    return CAUSAL if is_own or not _other_head(config, saved) else None


def _why_not(config: Mapping[str, Any], family: str) -> str:
    saved = _saved_as(config)
    if is_classifier(config):
        return translate("was saved as {saved}, whose head does not write text", saved=saved)
    if _is_encoder_decoder(config, family):
        return translate("reads a whole text before it writes another (encoder-decoder)")
    if family in _tables()["MASKED_LM"]:
        return translate("reads a text from both sides and does not write on (encoder)")
    if family in _tables()["CAUSAL_LM"]:
        if saved == _base(family):
            return translate("was saved as {saved}, without the head that writes text", saved=saved)
        return translate("was saved as {saved}, whose head does not write text", saved=saved)
    return translate("has no head that writes text")


def _is_encoder_decoder(config: Mapping[str, Any], family: str) -> bool:
    if config.get("is_encoder_decoder"):
        return True
    is_whole = any(family in _tables()[table] for table in _WHOLE)
    two_parts = ("SEQ_TO_SEQ_CAUSAL_LM", "SPEECH_SEQ_2_SEQ")
    return not is_whole and any(family in _tables()[table] for table in two_parts)


def _other_head(config: Mapping[str, Any], saved: str | None) -> bool:
    """Whether the class that the folder was saved as has no head that generates text, or another head."""
    family = config["model_type"]
    if saved is None or saved == _base(family):
        # If they are tied, the embedding is the head.
        return saved is not None and not config.get("tie_word_embeddings")
    writes = ("CAUSAL_LM", "PRETRAINING", *_WHOLE)
    if any(saved in _tables()[table].values() for table in writes):
        return False
    return any(saved in names.values() for table, names in _tables().items() if table not in writes)


def _saved_as(config: Mapping[str, Any]) -> str | None:
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else None


def _base(family: str) -> str | None:
    return _tables()["BASE"].get(family)


def _installed() -> str:
    try:
        return version("transformers")
    except PackageNotFoundError:
        return ""


@functools.cache
def _tables() -> Mapping[str, Mapping[str, str]]:
    """Task -> family -> class, of the installed transformers; CONFIG and BASE are those of all families."""
    found = importlib.util.find_spec("transformers")
    folder = Path(found.origin).parent / "models" / "auto" if found and found.origin else Path()
    tables: dict[str, dict[str, str]] = {}
    for name in ("auto_mappings.py", "configuration_auto.py", "modeling_auto.py"):
        if (folder / name).is_file():
            for task, pairs in _assigned((folder / name).read_text(encoding="utf-8")):
                tables.setdefault(task, {}).update(pairs)
    needed = {
        "CONFIG",
        "BASE",
        "CAUSAL_LM",
        "MASKED_LM",
        "PRETRAINING",
        "SPEECH_SEQ_2_SEQ",
        "SEQ_TO_SEQ_CAUSAL_LM",
    }
    if not {*needed, *_WHOLE} <= tables.keys():
        return {}
    # In the source this table includes the other.
    tables["MULTIMODAL_LM"] = {**tables["IMAGE_TEXT_TO_TEXT"], **tables["MULTIMODAL_LM"]}
    return tables


def _assigned(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The pairs of texts in each `..._MAPPING_NAMES = ...` and `..._MAPPING_NAMES.update(...)` of a file."""
    # Parsing the file takes three times as long as the rest of the check.
    for name, inside in _TABLE.findall(text):
        task = name.removesuffix("_MAPPING_NAMES").removeprefix("MODEL_FOR_")
        yield {"MODEL": "BASE"}.get(task, task), dict(_PAIR.findall(inside))
