"""XTuner: fine-tune a large language model on the hardware at hand.

    from xtuner import new_config, train, chat, evaluate

The functions are those of the commands; they are imported on first use.
"""

import importlib
import sys
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xtuner.api.configs import new_config
    from xtuner.api.scores import evaluate
    from xtuner.api.training import train
    from xtuner.chat.talk import chat

__version__ = "0.4.0"
__all__ = ["chat", "evaluate", "new_config", "train"]

_ROOMS = {"evaluate": "api.scores", "new_config": "api.configs", "train": "api.training"}


def __getattr__(name: str) -> Any:
    if name == "chat":
        return importlib.import_module(f"{__name__}.chat")
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_ROOMS[name]}"), name)


if "ipykernel" in sys.modules:
    # tqdm says so at the import of transformers; its bars are then plain text, which notebooks show too.
    warnings.filterwarnings("ignore", message="IProgress not found")
