"""The projector of LLaVA: linear layers from features of an image encoder to embeddings of a language model.

DIR/config.json          {"visual_hidden_size": 1024, "llm_hidden_size": 4096, "depth": 2, ...}
DIR/model.safetensors    model.0.weight, model.0.bias, model.2.weight, ...
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from xtuner.errors import ModelError
from xtuner.language import translate
from xtuner.log import logger
from xtuner.model.lora import read_weights
from xtuner.model_folder import read_json

FILES = ("model.safetensors", "pytorch_model.bin")


class Projector(nn.Module):
    """`depth` linear layers with the activation `hidden_act` between them."""

    def __init__(
        self,
        visual_hidden_size: int,
        llm_hidden_size: int,
        depth: int = 2,
        hidden_act: str = "gelu",
        bias: bool = True,
    ) -> None:
        from transformers.activations import ACT2FN

        super().__init__()
        self.config = {
            "model_type": "projector",
            "visual_hidden_size": visual_hidden_size,
            "llm_hidden_size": llm_hidden_size,
            "depth": depth,
            "hidden_act": hidden_act,
            "bias": bias,
        }
        layers: list[nn.Module] = [nn.Linear(visual_hidden_size, llm_hidden_size, bias=bias)]
        for _ in range(1, depth):
            layers += [ACT2FN[hidden_act], nn.Linear(llm_hidden_size, llm_hidden_size, bias=bias)]
        self.model = nn.Sequential(*layers)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return next(self.parameters()).dtype

    @property
    def config_text(self) -> str:
        """The content of config.json."""
        return json.dumps(self.config, indent=2) + "\n"

    def forward(self, features: Tensor) -> Tensor:
        """Embeddings `[..., llm_hidden_size]` of `features [..., visual_hidden_size]`."""
        return self.model(features)


def save_projector(projector: Projector, folder: Path) -> None:
    """Write the two files of a projector to `folder`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(projector.config_text, encoding="utf-8")
    save_file(projector.state_dict(), folder / FILES[0])


def load_projector(folder: Path) -> Projector:
    """The projector saved in `folder`."""
    logger.info(translate("Load projector from %s"), folder)
    config = read_json(folder / "config.json")
    try:
        projector = Projector(
            config["visual_hidden_size"],
            config["llm_hidden_size"],
            config.get("depth", 2),
            config.get("hidden_act", "gelu"),
            config.get("bias", True),
        )
    except (KeyError, TypeError) as error:
        raise ModelError(
            translate(
                "{file} does not describe a projector: {error}", error=error, file=folder / "config.json"
            )
        ) from error
    files = [folder / name for name in FILES if (folder / name).is_file()]
    if not files:
        raise ModelError(
            translate(
                "the projector {folder} has no weights: none of {names}",
                folder=folder,
                names=", ".join(FILES),
            )
        )
    weights = read_weights(files[0])
    wanted = projector.state_dict()
    for name in sorted({*wanted, *weights}):
        shapes = [tuple(w[name].shape) if name in w else translate("missing") for w in (weights, wanted)]
        if shapes[0] != shapes[1]:
            raise ModelError(
                translate(
                    "{file} and the config beside it differ: {name} is {there}, not {here}",
                    name=name,
                    file=files[0],
                    there=shapes[0],
                    here=shapes[1],
                )
            )
    projector.load_state_dict(weights)
    return projector
