"""A model of a few megabytes, so that a save takes as long as an iteration or more."""

from __future__ import annotations

from typing import Any

import torch

from xtuner.model.train_module import TrainModule

WIDTH = 512


class Rows:
    """Twenty rows of random numbers."""

    key = "rows"

    def __init__(self) -> None:
        self.values = torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(7))

    def __len__(self) -> int:
        return 20

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"x": self.values[i]}


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch as the data sets of xtuner make them."""
    return {"data": {"x": torch.stack([row["x"] for row in rows])}, "data_samples": None}


class Net(TrainModule):
    """Two layers with dropout."""

    uses_adapter = True

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = torch.nn.Linear
        self.net = torch.nn.Sequential(layer(WIDTH, WIDTH), torch.nn.Dropout(0.2), layer(WIDTH, WIDTH))

    def num_items(self, data: dict[str, Any]) -> int:
        """How many numbers carry loss."""
        return data["x"].numel()

    def forward(self, data: Any, data_samples: Any = None, mode: str = "loss", num_items: Any = None) -> Any:
        """The squared distance of each row from itself."""
        loss = (self.net(data["x"]) - data["x"]).square().sum() / (num_items or data["x"].numel())
        return {"loss": loss, "sums": {}}
