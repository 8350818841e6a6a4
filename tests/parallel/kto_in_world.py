"""One batch of KTO by each process it is started in, or both by one; rank 0 leaves what all report together.

python kto_in_world.py FOLDER     ->  FOLDER/kto.pt: the loss, the metrics and the gradient
"""

import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from xtuner.dataset.collate_fns.flat import flat_collate_fn
from xtuner.model.kto import KTO
from xtuner.parallel.world import World, make_world


def item(number: int) -> dict:
    """An answer and a mismatched one, and for number 1 two more."""
    lengths = [6, 5, 7, 4][: 2 + 2 * number]
    ids = torch.randint(3, 64, (sum(lengths),), generator=torch.Generator().manual_seed(number)).numpy()
    return {
        "input_ids": ids,
        "labels": ids.copy(),
        "cumulative_len": [0, *torch.tensor(lengths).cumsum(0).tolist()],
    }


def report(world: World, numbers: list[int]) -> dict:
    """What the processes of `world` report of the batches `numbers`, those of this process."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=64, **sizes)
    llm, reference = LlamaForCausalLM(config).double(), LlamaForCausalLM(config).double()
    model = KTO(llm, ref_llm=reference, beta=0.5).train()
    data = flat_collate_fn([item(number) for number in numbers])["data"]
    data["desirable"] = torch.tensor([number == 0 for number in numbers for _ in range(1 + number)])
    outputs = model(data, num_items=3)
    outputs["loss"].backward()
    gradient = torch.cat([p.grad.flatten() for p in llm.parameters()])
    values = {"loss": outputs["loss"].detach(), "gradient": gradient, **outputs["sums"]}
    return {name: world.sum(value.clone()) for name, value in values.items()}


def main(folder: Path) -> None:
    """Each process takes the batch of its own number."""
    torch.set_num_threads(1)
    world = make_world()
    world.connect()
    found = report(world, [world.rank])
    if world.is_first:
        torch.save(found, folder / "kto.pt")
    world.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
