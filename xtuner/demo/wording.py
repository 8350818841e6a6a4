"""The texts of the demo, in English and Chinese."""

from __future__ import annotations

WORDS = {
    "en": {
        "title": "XTuner demo: a model learns its name",
        "intro": (
            "From nothing to a fine-tuned model on this machine, without network, in minutes: "
            "make a small base model, ask it who it is, fine-tune it with QLoRA on 80 rows, "
            "convert and merge the result, and ask again."
        ),
        "log": "The output of each command is in {path}",
        "base": "Make a base model",
        "base_why": (
            "A stand-in for a model from a hub: a tokenizer and a Llama of four layers, trained on a "
            "small Chinese and English text that comes with XTuner. It takes one to six minutes, and is kept "
            "for the next run."
        ),
        "base_bar": "pre-training, loss {loss:.2f}",
        "base_done": "{params:.1f} million parameters, {tokens:,} tokens read, loss {loss:.2f}",
        "base_kept": "using {path} from an earlier run",
        "before": "Ask it who it is",
        "before_why": "Four questions, read from a script instead of the keyboard.",
        "config": "Write the data and the config",
        "config_why": (
            "80 rows that say who the model is, {name!r}, and the built-in config {recipe} with these paths. "
            "You can read and edit both."
        ),
        "train": "Fine-tune with QLoRA",
        "train_why": (
            "The base is frozen and quantised to 4 bits (nf4); a small LoRA adapter learns the rows. "
            "About half a minute."
        ),
        "train_bar": "fine-tuning, loss {loss:.2f}",
        "train_done": "loss from {first:.2f} to {last:.2f}, checkpoint {path}",
        "convert": "Convert and merge",
        "convert_why": (
            "The checkpoint becomes an adapter folder for peft; "
            "base and adapter become one model for transformers."
        ),
        "after": "Ask again",
        "after_why": "The same questions to the merged model.",
        "working": "working",
        "seconds": "{seconds:.0f} s",
        "question": "Question",
        "answer_before": "Before",
        "answer_after": "After",
        "files": "Files",
        "file_base": "the base model",
        "file_rows": "the 80 rows",
        "file_config": "the config",
        "file_adapter": "the adapter",
        "file_merged": "the merged model",
        "file_loss": "the loss curve",
        "success": "The model answers as {name}. {seconds:.0f} s in all.",
        "failure": "The model does not answer as {name}. Try another --seed; the log is {path}",
        "activate": "Let this shell find xtuner:",
        "talk": "Talk to it:",
        "plot_title": "Fine-tuning on 80 rows",
        "plot_x": "iteration",
        "plot_y": "loss",
    },
    "zh": {
        "title": "XTuner 演示：让模型记住自己的名字",
        "intro": (
            "在这台机器上从零开始得到一个微调好的模型，不需要网络，只要几分钟：造一个小的基座模型，问它是谁，"
            "用 80 条数据做 QLoRA 微调，转换并合并，然后再问一次。"
        ),
        "log": "每条命令的输出都写在 {path}",
        "base": "造一个基座模型",
        "base_why": (
            "它代替从模型库下载的模型：一个分词器和一个四层的 Llama，用 XTuner 自带的一小段中英文文本训练。"
            "需要一到六分钟，下次运行会直接使用。"
        ),
        "base_bar": "预训练，损失 {loss:.2f}",
        "base_done": "{params:.1f} 百万个参数，读了 {tokens:,} 个词元，损失 {loss:.2f}",
        "base_kept": "使用以前造好的 {path}",
        "before": "问它是谁",
        "before_why": "四个问题，从脚本读入，不用键盘。",
        "config": "写出数据和配置",
        "config_why": (
            "80 条说明模型是谁（{name}）的数据，以及填好路径的内置配置 {recipe}。两者都可以打开来读和改。"
        ),
        "train": "QLoRA 微调",
        "train_why": ("基座模型被冻结并量化到 4 比特（nf4），一个小的 LoRA 适配器学习这些数据。大约半分钟。"),
        "train_bar": "微调，损失 {loss:.2f}",
        "train_done": "损失从 {first:.2f} 降到 {last:.2f}，检查点 {path}",
        "convert": "转换与合并",
        "convert_why": "先把检查点变成 peft 能读的适配器，再和基座合并成 transformers 能读的模型。",
        "after": "再问一次",
        "after_why": "同样的问题，这次问合并后的模型。",
        "working": "进行中",
        "seconds": "{seconds:.0f} 秒",
        "question": "问题",
        "answer_before": "微调前",
        "answer_after": "微调后",
        "files": "文件",
        "file_base": "基座模型",
        "file_rows": "80 条数据",
        "file_config": "配置",
        "file_adapter": "适配器",
        "file_merged": "合并后的模型",
        "file_loss": "损失曲线",
        "success": "模型以 {name} 的身份回答。共用 {seconds:.0f} 秒。",
        "failure": "模型没有以 {name} 的身份回答。可以换一个 --seed 再试；日志在 {path}",
        "activate": "让这个终端找到 xtuner：",
        "talk": "和它聊聊：",
        "plot_title": "Fine-tuning on 80 rows",
        "plot_x": "iteration",
        "plot_y": "loss",
    },
}
PREFERENCE_WORDS = {
    "en": {
        "title": "XTuner demo: a model learns to be polite",
        "intro": (
            "From nothing to a model trained on preferences on this machine, without network, in minutes: "
            "make a small base model, ask it, train it with DPO on 200 pairs of a polite and a rude answer, "
            "convert and merge the result, and ask again."
        ),
        "before": "Ask it",
        "config_why": (
            "200 pairs of answers, polite and rude, 50 other pairs for validation, and the config that "
            "`xtuner new-cfg` proposes for them. You can read and edit all of it."
        ),
        "train": "Train with DPO",
        "train_why": (
            "A small LoRA adapter learns to prefer the polite answers; the reference is the base with the "
            "adapter switched off. Less than a minute on two free cores."
        ),
        "train_bar": "training, loss {loss:.2f}",
        "file_rows": "the 200 pairs",
        "success": (
            "In {accuracy:.0%} of the held-out pairs the polite answer wins, and all answers are polite. "
            "{seconds:.0f} s in all."
        ),
        "failure": (
            "In {accuracy:.0%} of the held-out pairs the polite answer wins, or an answer is not polite. "
            "Try another --seed; the log is {path}"
        ),
        "plot_title": "DPO on 200 pairs",
    },
    "zh": {
        "title": "XTuner 演示：让模型学会礼貌",
        "intro": (
            "在这台机器上从零开始得到一个用偏好训练的模型，不需要网络，只要几分钟：造一个小的基座模型，问它问题，"
            "用 200 对礼貌和粗鲁的回答做 DPO，转换并合并，然后再问一次。"
        ),
        "before": "问它问题",
        "config_why": (
            "200 对回答（礼貌的和粗鲁的），另外 50 对用于验证，以及 `xtuner new-cfg` 给出的配置。"
            "都可以打开来读和改。"
        ),
        "train": "DPO 训练",
        "train_why": (
            "一个小的 LoRA 适配器学习偏好礼貌的回答；参考模型就是关掉适配器的基座。两个空闲的核不到一分钟。"
        ),
        "train_bar": "训练，损失 {loss:.2f}",
        "file_rows": "200 对回答",
        "success": "留出的回答对中 {accuracy:.0%} 判断正确，所有回答都有礼貌。共用 {seconds:.0f} 秒。",
        "failure": (
            "留出的回答对中 {accuracy:.0%} 判断正确，或有回答不礼貌。可以换一个 --seed 再试；日志在 {path}"
        ),
        "plot_title": "DPO on 200 pairs",
    },
}
"""The texts of the demo of preferences that differ."""
