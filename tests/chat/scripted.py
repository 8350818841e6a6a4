"""A real tiny model whose next tokens are those of a script."""

import torch


def script(model, tokenizer, answers):
    """Make `model` generate `answers` one after the other; returns the list of remaining ones.

    An answer ends with the end-of-sequence token, or where it runs into a stop word.
    """
    waiting = [tokenizer.encode(answer, add_special_tokens=False) for answer in answers]
    at = {"answer": 0, "token": 0}

    def force(_module, arguments, keywords, output):
        ids = waiting[at["answer"]]
        if keywords["input_ids"].shape[1] > 1 and at["token"]:  # a prompt: the answer before was stopped
            at.update(answer=at["answer"] + 1, token=0)
            ids = waiting[at["answer"]]
        done = at["token"] == len(ids)
        output.logits = torch.full_like(output.logits, -1e4)
        output.logits[..., tokenizer.eos_token_id if done else ids[at["token"]]] = 1e4
        at.update(answer=at["answer"] + done, token=0 if done else at["token"] + 1)
        return output

    model.config.max_position_embeddings = 16384
    model.register_forward_hook(force, with_kwargs=True)
    return model
