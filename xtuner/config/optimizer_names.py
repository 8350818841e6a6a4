"""Optimizers by a short name: `optimizer = dict(type='Muon', lr=2e-4)`.

A class of any other package can be named by its import. What is refused by name has the reason.
"""

from __future__ import annotations

_BNB = (
    "AdamW8bit PagedAdamW PagedAdamW8bit PagedAdamW32bit Lion Lion8bit PagedLion8bit AdEMAMix AdEMAMix8bit "
    "PagedAdEMAMix8bit"
)
_FREE = "AdamWScheduleFree RAdamScheduleFree SGDScheduleFree"

OPTIMIZERS: dict[str, str] = {
    **{name: f"torch.optim.{name}" for name in ("AdamW", "Adam", "SGD", "Adafactor", "RMSprop", "Adagrad")},
    "Muon": "xtuner.engine.muon.Muon",
    **{name: f"bitsandbytes.optim.{name}" for name in _BNB.split()},
    **{name: f"schedulefree.{name}" for name in _FREE.split()},
}

_OLD = "its package has had no release since 2024 or early 2025"
_INSTEAD = "{reason}: use LoRA, 'AdamW8bit' or 'Adafactor' to save memory"
REFUSED: dict[str, str] = {
    "GaLoreAdamW": _INSTEAD.format(reason=_OLD),
    "GaLoreAdamW8bit": _INSTEAD.format(reason=_OLD),
    "APOLLOAdamW": _INSTEAD.format(reason=_OLD),
    "AdamMini": _INSTEAD.format(reason=_OLD),
    "BAdam": f"{_OLD}: use LISAHook, which trains some layers at a time",
    "LOMO": f"{_OLD}: use 'Adafactor' or LISAHook",
    "AdaLOMO": f"{_OLD}: use 'Adafactor' or LISAHook",
    "CAME": f"{_OLD}: use 'Adafactor'",
    "SOAP": "from pytorch_optimizer import SOAP, of the package pytorch-optimizer",
    "Shampoo": "from pytorch_optimizer import Shampoo, of the package pytorch-optimizer",
    "Prodigy": "from pytorch_optimizer import Prodigy, of the package pytorch-optimizer",
}
