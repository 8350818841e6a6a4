"""From a config to a module whose forward returns a loss. Importing it registers InternLM and InternLM2."""

from xtuner.model.grpo import GRPO
from xtuner.model.internvl import InternVL_V1_5
from xtuner.model.late_compile import compile_bitsandbytes_late
from xtuner.model.llava import LLaVAModel
from xtuner.model.loading import register_families
from xtuner.model.sft import SupervisedFinetune
from xtuner.model.vision_language import VisionLanguageFinetune

compile_bitsandbytes_late()
register_families()

__all__ = ["GRPO", "InternVL_V1_5", "LLaVAModel", "SupervisedFinetune", "VisionLanguageFinetune"]
