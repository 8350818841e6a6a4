"""A method of one's own: focal loss, which gives tokens that the model knows already less weight."""

from xtuner.model.language_model import PackedLanguageModel
from xtuner.model.packed import loss_positions


class FocalFinetune(PackedLanguageModel):
    """Supervised fine-tuning; a token's loss is multiplied by (1 - its probability) ** gamma."""

    metrics = ("probability",)
    better_if_larger = frozenset(metrics)

    def __init__(self, llm, lora=None, tokenizer=None, gamma=2.0, use_activation_checkpointing=None):
        super().__init__(
            llm,
            lora=lora,
            tokenizer=tokenizer,
            use_activation_checkpointing=use_activation_checkpointing,
        )
        self.gamma = gamma

    def num_items(self, data):
        return len(loss_positions(data)[0])  # supervised tokens

    def compute_loss(self, packed, num_items):
        logprobs = self.token_logprobs(self.passes_of(packed, with_loss=True)).logprobs
        probability = logprobs.exp()
        losses = (1 - probability) ** self.gamma * -logprobs
        if num_items is None:
            num_items = max(1, len(logprobs))
        return {"loss": losses.sum() / num_items, "sums": {"probability": probability.detach().sum()}}
