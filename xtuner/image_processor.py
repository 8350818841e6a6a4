"""The image processor of a model folder: from images to the pixels that an encoder takes.

preprocessor_config.json   {"crop_size": {"height": 336, ...}, "image_mean": [0.48, 0.46, 0.41], ...}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from xtuner import internvl_folder, llava_folder
from xtuner.errors import ConfigError, ModelError
from xtuner.extras import pip_install
from xtuner.language import translate
from xtuner.model_folder import looks_local, read_json

# Tensors that a processor makes of text beside those of images.
OF_TEXT = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"})
_BLANK = 64  # pixels of a side: few, and not below what processors take


def load_image_processor(path: str | Path) -> Any:
    """The image processor of a folder, always with pillow, as in training."""
    from transformers import AutoImageProcessor

    if looks_local(path) or Path(path).is_dir():
        names = ("preprocessor_config.json", "processor_config.json")
        if not any((Path(path) / name).is_file() for name in names):
            raise ModelError(
                translate(
                    "{path} has no {name}, which says how images are prepared", path=path, name=names[0]
                )
            )
    try:
        return AutoImageProcessor.from_pretrained(str(path), backend="pil")
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        raise ModelError(
            translate("the image processor of {path} cannot be loaded: {error}", path=path, error=error)
        ) from error


def load_processor(path: str | Path, mm_vision_tower: str | Path | None = None) -> Any:
    """The processor of a vision-language model: its tokenizer and image processor, without videos.

    transformers reads videos with torchvision, which images do not need. `mm_vision_tower`: the image encoder
    of a folder of the package `llava`, if not the one that it names.
    """
    import transformers
    from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, ProcessorMixin
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    try:
        config, _ = PreTrainedConfig.get_config_dict(str(path))
        if config.get("model_type") == internvl_folder.FAMILY:
            parts = internvl_folder.processor_parts(path, config)
            return _without_videos(transformers.InternVLProcessor, {})(video_processor=None, **parts)
        if llava_folder.is_official(config):
            return _official_processor(path, config, mm_vision_tower)
        family = AutoConfig.from_pretrained(str(path)).model_type
        name = _named_processor(path) or PROCESSOR_MAPPING_NAMES.get(family)
        if name is None:
            what = "{path} has no processor of transformers: its family is {family!r}"
            raise ModelError(translate(what, path=path, family=family))
        kind: Any = getattr(transformers, name)
        if not issubclass(kind, ProcessorMixin):  # a stand-in of transformers
            what = "the processor of {path} needs a package that is missing: {command}"
            raise ModelError(translate(what, path=path, command=pip_install("torchvision")))
        images = load_image_processor(path)
        parts = {
            "image_processor": images,
            # Some processors (MiniCPM-V) read settings of it that are those of images too.
            "video_processor": images,
            "tokenizer": AutoTokenizer.from_pretrained(str(path)),
        }
        return _without_videos(kind, parts).from_pretrained(str(path))
    except (OSError, ValueError, KeyError, ImportError, TypeError, AttributeError) as error:
        raise ModelError(
            translate("the processor of {path} cannot be loaded: {error}", path=path, error=error)
        ) from error


def _official_processor(path: str | Path, config: Mapping[str, Any], encoder: str | Path | None) -> Any:
    """The processor of a folder of the package `llava`."""
    if encoder is not None:
        config = {**config, "mm_vision_tower": str(encoder)}
    llava_folder.check_supported(config, path)
    has_own = (Path(path) / "preprocessor_config.json").is_file()
    images = load_image_processor(path if has_own else llava_folder.encoder_folder(config, path))
    return llava_folder.processor_of(path, config, images)


def _named_processor(path: str | Path) -> str | None:
    """The class of processor that a folder's files name: Pixtral's models are LLaVAs with another."""
    import transformers
    from transformers.utils import cached_file

    for file in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        found = cached_file(str(path), file, _raise_exceptions_for_missing_entries=False)
        name = found and read_json(Path(found)).get("processor_class")
        if name and hasattr(transformers, str(name)):
            return str(name)
    return None


def _without_videos(kind: Any, parts: Mapping[str, Any]) -> Any:
    """The class of a processor that is made of `parts`, without the others, and is given no videos."""

    class WithoutVideos(kind):
        @classmethod
        def _get_arguments_from_pretrained(cls, *args: Any, **kwargs: Any) -> list[Any]:
            return [parts.get(name) for name in cls.get_attributes()]

        def check_argument_for_proper_class(self, name: str, value: Any) -> Any:
            absent = value is None or name == "video_processor"
            return None if absent else super().check_argument_for_proper_class(name, value)

    WithoutVideos.__name__ = WithoutVideos.__qualname__ = kind.__name__
    return WithoutVideos


def blank_inputs(path: str | Path, mm_vision_tower: str | None = None) -> dict[str, Any]:
    """The tensors of a blank image, by the processor of a folder (`load_processor`)."""
    from PIL import Image

    processor = load_processor(path, mm_vision_tower)
    blank = Image.new("RGB", (_BLANK, _BLANK))
    found = processor(images=[[blank]], text=[processor.image_token], return_tensors="pt")
    return {name: value for name, value in found.items() if name not in OF_TEXT}


def make_processor(given: Any) -> Any:
    """The processor of a config's `processor`; another object is one already."""
    encoder = given.get("mm_vision_tower") if isinstance(given, Mapping) else None
    return _made(given, "processor", lambda path: load_processor(path, encoder))


def make_image_processor(given: Any) -> Any:
    """The processor of a config's `image_processor`; another object is one already."""
    return _made(given, "image_processor", load_image_processor)


def _made(given: Any, setting: str, load: Callable[[str], Any]) -> Any:
    if not isinstance(given, Mapping):
        return given
    path = given.get("pretrained_model_name_or_path")
    if path is None:
        what = "{setting} has no pretrained_model_name_or_path: name its folder"
        raise ConfigError(translate(what, setting=setting))
    return load(path)


def num_patches(image_size: int, patch_size: int) -> int:
    """The number of patches of a square image, each of which is a row of an encoder."""
    return (image_size // patch_size) ** 2


def background_of(processor: Any) -> tuple[int, ...]:
    """The colour that pads an image to a square: the mean, which becomes zero."""
    mean = getattr(processor, "image_mean", None) or (0.0, 0.0, 0.0)
    return tuple(int(value * 255) for value in mean)
