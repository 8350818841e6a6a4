"""InternVL as configs of XTuner 0.1.x name it: VisionLanguageFinetune of the model in one folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from xtuner.config.internvl import general_model
from xtuner.internvl_folder import own_form
from xtuner.language import translate
from xtuner.log import logger, say_once
from xtuner.model.vision_language import VisionLanguageFinetune


class InternVL_V1_5(VisionLanguageFinetune):  # noqa: N801 - the name in configs
    """An InternVL whose projector is trained; language model and encoder too, if they are not frozen."""

    unbuilt = frozenset()

    def __init__(
        self,
        model_path: str,
        freeze_llm: bool = False,
        freeze_visual_encoder: bool = False,
        llm_lora: Any = None,
        visual_encoder_lora: Any = None,
        quantization_vit: bool = False,
        quantization_llm: bool = False,
        pretrained_pth: str | None = None,
        use_activation_checkpointing: bool | str | None = None,
        max_position_embeddings: int | None = None,
        tokenizer: Any = None,
    ) -> None:
        """`model_path`: a folder of InternVL's own form (`internvl_chat`) or of transformers (`internvl`).

        `llm_lora`, `visual_encoder_lora`: adapters, beside which the rest of that part is frozen.
        `quantization_llm`, `quantization_vit`: that part in 4 bits. `pretrained_pth`: a checkpoint of an
        earlier run, whose weights training begins with.
        """
        general = general_model(
            {
                "type": "InternVL_V1_5",
                "model_path": model_path,
                "freeze_llm": freeze_llm,
                "freeze_visual_encoder": freeze_visual_encoder,
                "llm_lora": llm_lora,
                "visual_encoder_lora": visual_encoder_lora,
                "quantization_vit": quantization_vit,
                "quantization_llm": quantization_llm,
            }
        )
        super().__init__(
            **{name: value for name, value in general.items() if name != "type"},
            use_activation_checkpointing=use_activation_checkpointing,
            max_position_embeddings=max_position_embeddings,
            tokenizer=tokenizer,
        )
        self.starts_from = pretrained_pth

    def chat_form(self, template: Any, system: str) -> tuple[Any, str]:
        if template is None:
            return template, system
        own, usual = own_form(template)
        return own, system or usual

    def start_from(self, state: Mapping[str, Any], path: str) -> None:
        """Take the weights of the earlier run that are trained here too."""
        own = self.state_dict()
        taken = {name: value for name, value in state.items() if name in own}
        self.check_fits(taken, strict=False)
        nn.Module.load_state_dict(self, taken, strict=False)
        logger.info(translate("Load pretrained weight from {path}", path=path))
        if unused := sorted(state.keys() - taken.keys()):
            what = "model.pretrained_pth: {count} of its weights belong to no part of this model, as {name}"
            say_once(what, count=len(unused), name=unused[0])
