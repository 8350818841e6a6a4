"""The checkpoint of a run of InternVL as one whole model, with adapters merged: two layouts.

    official      InternVL's own form: names, config.json and Python files of the base
    huggingface   an InternVLForConditionalGeneration of transformers with its processor; an InternLM2 in it
                  becomes the Llama that it is, so that no code of ours is needed

The second is made of the first, tensor by tensor.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from xtuner.chat.trained_with import CONFIG_NAME, trained_template
from xtuner.convert.card import write_card
from xtuner.convert.folders import copy_other_files, model_folder
from xtuner.convert.llama_names import Load, as_llama
from xtuner.convert.merge import merge
from xtuner.convert.names import AsFiles, Names, empty_model
from xtuner.convert.progress import byte_bar
from xtuner.convert.safetensors_stream import TensorInfo
from xtuner.convert.served import CONTENT, jinja, serve_as_trained
from xtuner.convert.trained import Writing
from xtuner.convert.weights import Weights, write_weights
from xtuner.errors import ConfigError
from xtuner.image_processor import load_processor
from xtuner.internvl_folder import FAMILY, keep_image_tokens
from xtuner.language import translate
from xtuner.model.loading import load_config
from xtuner.model_folder import read_json

FORMATS = ("official", "huggingface")
_MULTIPLE = 64  # of rows of an embedding
_OF_TOKENS = ("embed_tokens.weight", "lm_head.weight")
_TEXT = ("model.language_model.", "lm_head.", "output.")
# An image stands before a line break, as in training.
_WITH_IMAGES = """\
{{%- set state.content = "" -%}}
{{%- if message["content"] is string -%}}
{{%- set state.content = message["content"] -%}}
{{%- else -%}}
{{%- for part in message["content"] -%}}
{{%- if part["type"] == "image" -%}}
{{%- set state.content = state.content + {token} + "\\n" -%}}
{{%- elif part["type"] == "text" -%}}
{{%- set state.content = state.content + part["text"] -%}}
{{%- endif -%}}
{{%- endfor -%}}
{{%- endif -%}}
{{%- set content = state.content -%}}"""


def write_whole(trained: Path, base_dir: Path, folder: Path, save_format: str, how: Writing) -> None:
    """Write the model or adapter in `trained` as one whole model in one of FORMATS into `folder`."""
    shards, safe = how.max_shard_size, how.safe_serialization
    whole = trained
    if (trained / "adapter_config.json").is_file():
        whole = trained.with_name("whole")
        merge(base_dir, trained, whole, shards, safe_serialization=safe, check=False)
    else:
        _beside(base_dir, trained)
    if save_format == "official" or _family_of(base_dir) != FAMILY:
        shutil.copytree(whole, folder, dirs_exist_ok=True)
    else:
        _write_native(whole, folder, str(base_dir), shards, safe)


def internvl_base(name: str | None, save_format: str, config: str) -> Path:
    """The folder of the base model; ConfigError if a run with it has no such format."""
    base = None if name is None else model_folder(name, "the base model")
    family = None if base is None else _family_of(base)
    if base is None or family not in (FAMILY, "internvl"):
        raise ConfigError(
            translate(
                "save_format {save_format!r} is for LLaVA and InternVL, and {config} has none",
                save_format=save_format,
                config=config,
            )
        )
    if save_format not in FORMATS:
        raise ConfigError(
            translate(
                "save_format is {save_format!r}: write one of xtuner, {names}.",
                save_format=save_format,
                names=", ".join(FORMATS),
            )
        )
    if save_format == "official" and family != FAMILY:
        raise ConfigError(
            translate("{name} is in the form of transformers: write --save-format huggingface.", name=name)
        )
    return base


def _family_of(folder: Path) -> str:
    return str(read_json(folder / "config.json").get("model_type"))


def _beside(base: Path, folder: Path) -> None:
    """Copy the files of the base that a trained model lacks, such as InternVL's own code."""
    copy_other_files(base, folder, leave=("README.md", *(file.name for file in folder.iterdir())))
    config = read_json(folder / "config.json")
    # In the words of the base: older versions of transformers read no others.
    kept = {**read_json(base / "config.json"), "dtype": config["dtype"]}
    kept.pop("torch_dtype", None)
    _write_json(folder / "config.json", kept)


def _write_native(
    whole: Path, folder: Path, base: str, max_shard_size: str | int, safe_serialization: bool
) -> None:
    """Write a folder of InternVL's own form as one of transformers."""
    from transformers import InternVLForConditionalGeneration

    own, weights, processor = load_config(whole), Weights(whole), load_processor(whole)
    tokenizer = keep_image_tokens(processor.tokenizer)
    config = _native_config(own)
    if len(tokenizer) > (rows := config.text_config.vocab_size):
        rows = config.text_config.vocab_size = -(-len(tokenizer) // _MULTIPLE) * _MULTIPLE
    with torch.device("meta"):
        model = InternVLForConditionalGeneration(config)
    parameters = _Parameters(whole, weights, own.text_config, rows)
    files = AsFiles(model, parameters, parameters.infos)
    total = sum(info.num_bytes for info in files.infos.values())
    with byte_bar(translate("Saving"), total) as advance:

        def load(name: str) -> torch.Tensor:
            advance(files.infos[name].num_bytes)
            return files[name]

        write_weights(
            folder,
            files.infos,
            load,
            max_shard_size=max_shard_size,
            safe_serialization=safe_serialization,
        )
    fields = {**config.to_dict(), "architectures": [InternVLForConditionalGeneration.__name__]}
    _write_json(folder / "config.json", fields)
    for name in (CONFIG_NAME, "generation_config.json"):
        if (whole / name).is_file():
            shutil.copyfile(whole / name, folder / name)
    _write_processor(folder, processor, tokenizer, trained_template([whole]))
    write_card(folder, base, "model")
    serve_as_trained(folder)


def _native_config(own: Any) -> Any:
    from transformers import InternVLConfig

    text = own.text_config.to_dict()
    if own.text_config.model_type == "internlm2":
        from transformers import LlamaConfig

        left = ("model_type", "architectures", "auto_map", "bias", "transformers_version")
        text = LlamaConfig(**{name: value for name, value in text.items() if name not in left}).to_dict()
    text.pop("_name_or_path", None)
    text.pop("auto_map", None)
    vision = own.vision_config
    side = vision.image_size[0] // vision.patch_size[0]
    return InternVLConfig(
        text_config=text,
        vision_config=vision.to_dict(),
        image_token_id=own.image_token_id,
        image_seq_length=int(side**2 * own.downsample_ratio**2),
        downsample_ratio=own.downsample_ratio,
        vision_feature_layer=own.select_layer,
        tie_word_embeddings=own.tie_word_embeddings,
        dtype=own.dtype,
    )


class _Parameters(Mapping[str, torch.Tensor]):
    """The tensors of a folder of InternVL's own form, by transformers' names, each made on reading."""

    def __init__(self, folder: Path, weights: Weights, text: Any, rows: int) -> None:
        """`rows`: of the embedding and the head, those of new tokens being the mean of the others."""
        names = Names(empty_model(folder), weights.infos)
        self._loads: dict[str, Load] = {}
        self.infos: dict[str, TensorInfo] = {}
        for name, info in names.parameters().items():
            load = functools.partial(_made, names, weights, name)
            found: list[tuple[str, tuple[int, ...], Load]] = [(name, info.shape, load)]
            if name.startswith(_TEXT):
                found = as_llama(name, info.shape, load, text)
            for own, shape, part in found:
                if own.endswith(_OF_TOKENS) and shape[0] < rows:
                    part, shape = functools.partial(_grown, part, rows), (rows, *shape[1:])
                self._loads[own], self.infos[own] = part, TensorInfo(info.dtype, tuple(shape))

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._loads[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._loads)

    def __len__(self) -> int:
        return len(self._loads)


def _made(names: Names, weights: Weights, name: str) -> torch.Tensor:
    group = names.of_parameter[name]
    return names.to_model(group, {file: weights[file] for file in group.names()})[name]


def _grown(load: Load, rows: int) -> torch.Tensor:
    old = load()
    mean = old.float().mean(0, keepdim=True).to(old.dtype)
    return torch.cat([old, mean.expand(rows - len(old), -1)])


def _write_processor(
    folder: Path, processor: Any, tokenizer: Any, template: Mapping[str, Any] | None
) -> None:
    """Write the tokenizer, what cuts images into tiles, and a chat template with images."""
    processor.image_processor.save_pretrained(folder)
    if template is not None:
        content = _WITH_IMAGES.format(token=json.dumps(processor.image_token))
        tokenizer.chat_template = jinja(template, tokenizer).replace(CONTENT, content)
    tokenizer.save_pretrained(folder)
    settings = {"processor_class": "InternVLProcessor", "image_seq_length": processor.image_seq_length}
    _write_json(folder / "processor_config.json", settings)


def _write_json(path: Path, fields: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", "utf-8")
