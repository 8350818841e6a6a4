"""Embeddings of texts: the mean of the last hidden states over the tokens, normalised to length 1."""

from __future__ import annotations

import asyncio
import base64
import functools
from typing import Any

import torch

from xtuner.chat.server import schema
from xtuner.chat.server.requests import notices_of, prompt_ids, prompts_of
from xtuner.chat.server.scheduler import Scheduler
from xtuner.chat.server.service import ApiError, Patience, Service
from xtuner.model.base import base_model

MAX_INPUTS = 2048


async def embeddings(service: Service, body: schema.EmbeddingRequest, patience: Patience) -> dict[str, Any]:
    """The answer to `body`."""
    model = service.find(body.model)
    notices_of(body)
    texts = prompts_of(body.input, "input", MAX_INPUTS)
    rows = await asyncio.to_thread(prompt_ids, service, texts, patience)
    context = service.prompts.context
    for i, row in enumerate(rows):
        if not row or (context is not None and len(row) > context):
            reason = f"has {len(row)} tokens; the model's context holds {context}" if row else "is empty"
            raise ApiError(400, f"input.{i} {reason}", "input")
    size = service.scheduler.model.get_input_embeddings().embedding_dim
    if body.dimensions not in (None, size):
        raise ApiError(400, f"dimensions: this model's vectors have {size}: leave it out", "dimensions")
    vectors = []
    for row in rows:
        patience.check()
        work = functools.partial(vector, service.scheduler, row)
        vectors.append(await asyncio.wrap_future(service.scheduler.aside(work, model.adapter)))
    count = sum(map(len, rows))
    return {
        "object": "list",
        "model": model.name,
        "data": [
            {"object": "embedding", "index": i, "embedding": _encoded(embedding, body.encoding_format)}
            for i, embedding in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }


def vector(scheduler: Scheduler, ids: list[int]) -> torch.Tensor:
    """The embedding [hidden] of `ids`; called in the scheduler's thread."""
    model = scheduler.model
    base = base_model(model)
    body = base.base_model
    inputs = torch.tensor([ids], device=scheduler.engine.device)
    if body is base:  # the family has no base_model_prefix
        states = base(input_ids=inputs, output_hidden_states=True).hidden_states[-1]
    else:
        states = body(input_ids=inputs).last_hidden_state
    return torch.nn.functional.normalize(states[0].float().mean(0), dim=0).cpu()


def _encoded(embedding: torch.Tensor, encoding_format: str | None) -> Any:
    if encoding_format == "base64":
        return base64.b64encode(embedding.numpy().astype("<f4").tobytes()).decode()
    return embedding.tolist()
