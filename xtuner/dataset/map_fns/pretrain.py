"""Plain text for continued pretraining: `{"text"}`."""

from xtuner.dataset.map_fns.fields import Row, text


def pretrain_map_fn(example: Row) -> dict:
    """One turn without a question; all of it is supervised and no end-of-sequence token is added."""
    return {"conversation": [{"input": "", "output": text(example, "text").strip(), "need_eos_token": False}]}
