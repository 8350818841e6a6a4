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
        "kept": "using {path} from an earlier run",
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
        "plot_x": "iteration",
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
        "kept": "使用以前造好的 {path}",
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
        "plot_x": "迭代",
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
    },
}
"""The texts of the demo of preferences that differ."""
VISION_WORDS = {
    "en": {
        "title": "XTuner demo: a model learns to see",
        "intro": (
            "From nothing to a LLaVA on this machine, without network, in minutes: make a small base model "
            "and an image encoder, draw figures, train in two stages, convert the result, and ask about "
            "pictures that no training had."
        ),
        "encoder": "Make an image encoder",
        "encoder_why": (
            "A stand-in for CLIP: a CLIP of four layers that learns colours and shapes of drawn figures. "
            "It knows no word. It is kept for the next run."
        ),
        "encoder_bar": "pre-training, loss {loss:.2f}",
        "encoder_done": "{params:.1f} million parameters, {tokens:,} patches seen, loss {loss:.2f}",
        "config": "Draw the pictures, write the data and the config",
        "config_why": (
            "Captions for stage 1, questions about colour and shape for stage 2, other pictures for the "
            "questions before and after, and the built-in config {recipe} with these paths. "
            "You can read and edit all of it."
        ),
        "before": "Ask about the pictures",
        "before_why": (
            "Encoder and language model, joined by a projector with random weights; about one picture, and "
            "about all that are held out."
        ),
        "pretrain": "Stage 1: train the projector",
        "pretrain_why": "On captions; the encoder and the language model, in 4 bits (nf4), are frozen.",
        "finetune": "Stage 2: train the projector and the language model",
        "finetune_why": "On questions, from the checkpoint of stage 1; the encoder is frozen.",
        "train_bar": "training, loss {loss:.2f}",
        "convert": "Convert",
        "convert_why": "Encoder, projector and language model become one folder for transformers.",
        "after_why": "The same questions about the same pictures.",
        "measured": "right: colour {colour:.0%}, shape {shape:.0%}",
        "file_page": "the page",
        "file_encoder": "the image encoder",
        "file_captions": "the captions",
        "file_rows": "the questions",
        "file_pretrain": "stage 1",
        "file_finetune": "stage 2",
        "file_merged": "the LLaVA",
        "success": (
            "Of {count} pictures that it has not seen, the model names the colour of {colour:.0%} (before: "
            "{colour_before:.0%}) and the shape of {shape:.0%} ({shape_before:.0%}). {seconds:.0f} s in all."
        ),
        "failure": (
            "Of {count} pictures that it has not seen, the model names the colour of {colour:.0%} and the "
            "shape of {shape:.0%}. Try another --seed; the log is {path}"
        ),
        "page_intro": (
            "Pictures that no training had. Below each question: the answers before and after training."
        ),
        "page_colour": "colour, before and after",
        "page_shape": "shape, before and after",
        "page_right": "right: {right}",
    },
    "zh": {
        "title": "XTuner 演示：让模型学会看图",
        "intro": (
            "在这台机器上从零开始得到一个 LLaVA，不需要网络，只要几分钟：造一个小的基座模型和一个图像编码器，"
            "画图形，分两个阶段训练，转换结果，然后用训练中没有出现过的图片提问。"
        ),
        "encoder": "造一个图像编码器",
        "encoder_why": (
            "它代替 CLIP：一个四层的 CLIP，学习所画图形的颜色和形状，不认识任何词。下次运行会直接使用。"
        ),
        "encoder_bar": "预训练，损失 {loss:.2f}",
        "encoder_done": "{params:.1f} 百万个参数，看了 {tokens:,} 个图像块，损失 {loss:.2f}",
        "config": "画图片，写出数据和配置",
        "config_why": (
            "第一阶段的图片描述，第二阶段关于颜色和形状的问题，训练前后提问用的另一些图片，"
            "以及填好路径的内置配置 {recipe}。都可以打开来读和改。"
        ),
        "before": "就图片提问",
        "before_why": "编码器和语言模型之间是一个随机权重的 projector；先问一张图片，再问所有留出的图片。",
        "pretrain": "第一阶段：训练 projector",
        "pretrain_why": "用图片描述训练；编码器和 4 比特（nf4）的语言模型被冻结。",
        "finetune": "第二阶段：训练 projector 和语言模型",
        "finetune_why": "从第一阶段的 checkpoint 开始，用问题训练；编码器被冻结。",
        "train_bar": "训练，损失 {loss:.2f}",
        "convert": "转换",
        "convert_why": "编码器、projector 和语言模型变成 transformers 能读的一个文件夹。",
        "after_why": "同样的图片，同样的问题。",
        "measured": "答对：颜色 {colour:.0%}，形状 {shape:.0%}",
        "file_page": "网页",
        "file_encoder": "图像编码器",
        "file_captions": "图片描述",
        "file_rows": "问题",
        "file_pretrain": "第一阶段",
        "file_finetune": "第二阶段",
        "file_merged": "LLaVA",
        "success": (
            "在 {count} 张没有见过的图片中，模型说对了 {colour:.0%} 的颜色（训练前 {colour_before:.0%}）和 "
            "{shape:.0%} 的形状（{shape_before:.0%}）。共用 {seconds:.0f} 秒。"
        ),
        "failure": (
            "在 {count} 张没有见过的图片中，模型说对了 {colour:.0%} 的颜色和 {shape:.0%} 的形状。"
            "可以换一个 --seed 再试；日志在 {path}"
        ),
        "page_intro": "训练中没有出现过的图片。每个问题下面是训练前的回答和训练后的回答。",
        "page_colour": "颜色，训练前后",
        "page_shape": "形状，训练前后",
        "page_right": "应为 {right}",
    },
}
"""The texts of the demo of vision that differ."""
