"""Conversations about images as configs of XTuner 0.1.x name them for InternVL.

    dict(type=InternVL_V1_5_Dataset, model_path=P, template=PROMPT_TEMPLATE.internlm2_chat,
         data_paths=['a.json', 'b.jsonl'], image_folders=['a', 'b.zip'], repeat_times=[1, 0.5])
    ->   a VisionLanguageDataset for each file, all rows of a and half of those of b

Turns are written as InternVL's own code writes them: without a line break between two of them, and after a
system text.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from xtuner.dataset.concat_dataset import ConcatDataset
from xtuner.dataset.map_fns.template import find_template
from xtuner.dataset.vision_language import VisionLanguageDataset
from xtuner.errors import ConfigError
from xtuner.internvl_folder import own_form
from xtuner.language import translate
from xtuner.log import say_once


class InternVL_V1_5_Dataset(ConcatDataset):  # noqa: N801 - the name in configs
    """Items of one conversation each, of one or several files."""

    def __init__(
        self,
        model_path: str,
        template: Mapping[str, Any] | str,
        data_paths: str | Sequence[str],
        image_folders: str | Sequence[str | None] | None = None,
        repeat_times: float | Sequence[float] = 1,
        max_length: int = 8192,
        system: str | None = None,
        seed: int = 0,
        held_out: float = 0.0,
        take_held_out: bool = False,
        video_frames: int = 8,
    ) -> None:
        """`model_path`: the folder whose config says how images are cut into tiles, and with the tokenizer.

        `data_paths`, `image_folders` and `repeat_times` are one value or a list of equal length; a fraction
        of `repeat_times` takes that part of the rows. `max_length` counts the tokens of images. `system`
        replaces the text with which InternVL's own conversations begin; a row may have another. `held_out`,
        `take_held_out`: as of `process_hf_dataset`. A video is `video_frames` images.
        """
        more: dict[str, Any] = {"held_out": held_out, "take_held_out": take_held_out}
        more["video_frames"] = video_frames
        parts = self.parts(model_path, template, data_paths, image_folders, max_length, system, **more)
        times = _for_each(repeat_times, [part["dataset"] for part in parts], "repeat_times")
        super().__init__([VisionLanguageDataset(**part) for part in parts], epochs=times, seed=seed)

    @staticmethod
    def parts(
        model_path: str,
        template: Mapping[str, Any] | str,
        data_paths: str | Sequence[str],
        image_folders: str | Sequence[str | None] | None = None,
        max_length: int = 8192,
        system: str | None = None,
        held_out: float = 0.0,
        take_held_out: bool = False,
        video_frames: int = 8,
        **others: Any,
    ) -> list[dict[str, Any]]:
        """The arguments of the VisionLanguageDataset of each file."""
        paths = [data_paths] if isinstance(data_paths, str) else list(data_paths)
        found, usual = own_form(find_template(template))
        if usual:
            say_once(
                "Turns are written as InternVL's own code writes them, without line breaks between them, "
                "after the system text {system!r}",
                logging.INFO,
                system=usual if system is None else system,
            )
        return [
            {
                "dataset": path,
                "processor": {"pretrained_model_name_or_path": model_path},
                "image_folder": folder,
                "max_length": max_length,
                "template": found,
                "system": usual if system is None else system,
                "pack_to_max_length": False,
                "held_out": held_out,
                "take_held_out": take_held_out,
                "video_frames": video_frames,
            }
            for path, folder in zip(paths, _for_each(image_folders, paths, "image_folders"), strict=True)
        ]


def _for_each(given: Any, paths: Sequence[str], name: str) -> list[Any]:
    """The value for each file: one for all, or a list of them."""
    if given is None or isinstance(given, (str, int, float)):
        return [given] * len(paths)
    if len(given) != len(paths):
        what = (
            "InternVL_V1_5_Dataset.{name} has {count} values, and data_paths {files}: give one for each file"
        )
        raise ConfigError(translate(what, name=name, count=len(given), files=len(paths)))
    return list(given)
