"""Train with the method of focal.py, and measure with the metric of metrics.py."""

from focal import FocalFinetune

from xtuner import evaluate, new_config, train

config = new_config(model="model", data="data.jsonl", method="full", lr=3e-3, max_epochs=30)
config.model.type = FocalFinetune
config.model["gamma"] = 2.0
del config.model["use_varlen_attn"]  # which FocalFinetune does not take
config.save_steps = config.evaluation_freq = 30
config.default_hooks.logger.interval = 10
config.randomness.seed = 0
run = train(config, work_dir="work_dirs/focal")
print("losses", [round(loss, 2) for loss in run.losses])
print("probability", [round(value, 2) for _, value in run.scalars["probability"]])
options = dict(metrics="metrics.py:words_found", max_new_tokens=24, work_dir="work_dirs/eval")
print(evaluate(run.pth_to_hf(), "data.jsonl", **options)["data"])
