"""The adapters of peft besides LoRA that a config can name: what each can do here, as a table.

    model = dict(lora=dict(type=OFTConfig, oft_block_size=32))

    peft_type     Method
    OFT           OFTConfig, of linear layers; exported, used in chat, merged
    P_TUNING      PromptEncoderConfig, of virtual tokens; exported, not merged
    XLORA         refused, with the reason

A type of a newer peft that has no row is refused as well: nothing here has compared it with peft.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LINEAR, OWN, PROMPT = "linear layers", "what peft chooses", "virtual tokens"
LORA = "LORA"


@dataclass(frozen=True)
class Method:
    """A type of adapter: peft's config class, what it adapts without `target_modules`, its abilities.

    `merges`: into a model of its own. `quantised`: on a base in 4 bits, as peft has it. `divides`: FSDP may
    divide its weights among processes. `settings`: what it needs. `refused`: why it is not trained here.
    """

    config: str
    adapts: str = LINEAR
    merges: bool = True
    quantised: bool = True
    divides: bool = True
    settings: str = ""
    refused: str = ""

    @property
    def trains(self) -> bool:
        return not self.refused


_PROMPTS = "it needs examples or tasks that a config of a run does not name"
_TOKENS = "num_virtual_tokens=20"
METHODS: dict[str, Method] = {
    "ADALORA": Method("AdaLoraConfig", divides=False, settings="init_r=12, target_r=8, total_step=1000"),
    "ADAMSS": Method("AdamssConfig", refused="it needs scikit-learn, which XTuner does not install"),
    "BEFT": Method("BeftConfig", merges=False),
    "BOFT": Method("BOFTConfig", settings="boft_block_size=4"),
    "C3A": Method("C3AConfig", settings="block_size=32"),
    "DEFT": Method("DeftConfig", quantised=False),
    "DELORA": Method("DeloraConfig", quantised=False),
    "FOURIERFT": Method("FourierFTConfig", settings="n_frequency=100"),
    "FROD": Method("FrodConfig", quantised=False),
    "GLORA": Method("GloraConfig", quantised=False),
    "GRALORA": Method("GraloraConfig"),
    "HIRA": Method("HiraConfig"),
    "HRA": Method("HRAConfig", quantised=False),
    "IA3": Method("IA3Config", OWN),
    "LILY": Method(
        "LilyConfig",
        refused="its router takes the mean over all tokens of a batch, so packed samples would mix",
    ),
    "LN_TUNING": Method("LNTuningConfig", OWN),
    "LOHA": Method("LoHaConfig", quantised=False),
    "LOKR": Method("LoKrConfig", quantised=False),
    "MISS": Method("MissConfig"),
    "OFT": Method("OFTConfig", settings="oft_block_size=32"),
    "OSF": Method("OSFConfig", quantised=False, divides=False),
    "PEANUT": Method("PeanutConfig", quantised=False),
    "PSOFT": Method("PsoftConfig", quantised=False),
    "PVERA": Method("PveraConfig"),
    "RANDLORA": Method("RandLoraConfig"),
    "ROAD": Method("RoadConfig", settings="group_size=64"),
    "SHADOW": Method(
        "ShadowConfig",
        refused="it runs a second model beside the base, whose loss only peft's own forward has",
    ),
    "SHIRA": Method("ShiraConfig", divides=False, settings="r=32"),
    "SUPERTUNING": Method("SupertuningConfig", quantised=False),
    "TINYLORA": Method("TinyLoraConfig", quantised=False, divides=False),
    "TRAINABLE_TOKENS": Method("TrainableTokensConfig", OWN, settings="token_indices=[5, 6]"),
    "UNILORA": Method("UniLoraConfig", quantised=False, divides=False),
    "VBLORA": Method("VBLoRAConfig", divides=False, settings="vector_length=32"),
    "VERA": Method("VeraConfig"),
    "WAVEFT": Method("WaveFTConfig", settings="n_frequency=2592"),
    "ADAPTION_PROMPT": Method(
        "AdaptionPromptConfig", OWN, merges=False, settings="adapter_len=10, adapter_layers=30"
    ),
    "P_TUNING": Method("PromptEncoderConfig", PROMPT, False, divides=False, settings=_TOKENS),
    "PREFIX_TUNING": Method("PrefixTuningConfig", PROMPT, False, divides=False, settings=_TOKENS),
    "PROMPT_TUNING": Method("PromptTuningConfig", PROMPT, False, divides=False, settings=_TOKENS),
    "CARTRIDGE": Method("CartridgeConfig", PROMPT, refused=_PROMPTS),
    "CPT": Method("CPTConfig", PROMPT, refused=_PROMPTS),
    "MULTITASK_PROMPT_TUNING": Method("MultitaskPromptTuningConfig", PROMPT, refused=_PROMPTS),
    "POLY": Method("PolyConfig", refused="each row would need the number of its task"),
    "XLORA": Method("XLoraConfig", refused="it mixes adapters that have been trained before"),
}


def type_of(cfg: Any) -> str:
    """peft's name of the type of a config, in its own spelling: `OFT`."""
    kind = cfg.get("peft_type") if isinstance(cfg, dict) else cfg.peft_type
    return str(getattr(kind, "value", kind) or LORA)
