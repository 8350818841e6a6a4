"""The comments in a rendered config, in English and in Chinese."""

from __future__ import annotations

from xtuner.language import LANGUAGES

# key: (English, Chinese)
COMMENTS = {
    "model": ("Model", "模型"),
    "data": ("Data", "数据"),
    "rollouts": ("Sampled answers and their rewards", "采样的回答及其奖励"),
    "rewards": ("FILE.py:FUNCTION, or a name; larger is better", "FILE.py:函数名，或内置名称，越大越好"),
    "count": ("answers to each prompt", "每个提示采样的回答数"),
    "max_new_tokens": ("tokens of an answer at most", "回答最多的 token 数"),
    "batch_size_prompts": ("prompts of an update, per GPU", "每次更新每张 GPU 的提示数"),
    "accumulative_counts_prompts": (
        "batches that the answers of an update are divided into",
        "每次更新的回答分成几批",
    ),
    "max_length_prompts": ("tokens of a prompt", "提示的 token 数"),
    "parallel": ("Parallel", "并行"),
    "schedule": ("Scheduler & Optimizer", "学习率与优化器"),
    "save": ("Save", "保存"),
    "evaluate": ("Sample answers while training", "训练中抽查模型的回答"),
    "pretrained_model_name_or_path": ("a folder, or a name on the hub", "本地目录，或 hub 上的名称"),
    "use_varlen_attn": (
        "packed samples never attend to each other either way",
        "无论真假，打包的样本都互不可见",
    ),
    "data_files": ("your own files", "换成自己的文件"),
    "max_length": ("tokens in a sequence", "每条序列的 token 数"),
    "pack_to_max_length": ("pack several samples into a sequence", "多条样本拼成一条序列"),
    "sequence_parallel_size": ("GPUs for each sequence", "共同处理一条序列的 GPU 数"),
    "batch_size": ("sequences per GPU", "每张 GPU 的序列数"),
    "accumulative_counts": ("batches per update", "每次更新累积的批数"),
    "scale": ("each of the GPUs of a sequence counts it", "处理同一条序列的每张 GPU 都会计数"),
    "max_norm": ("gradients are clipped to this norm", "梯度裁剪的上限"),
    "warmup_ratio": ("fraction of the training in which lr rises", "学习率上升阶段所占的比例"),
    "save_steps": ("iterations between checkpoints", "每隔多少次迭代保存一次"),
    "save_total_limit": ("older checkpoints are removed; -1 keeps all", "只留最近几个，-1 表示全部保留"),
    "evaluation_freq": ("iterations between samples", "每隔多少次迭代抽查一次"),
    "optimizer": ("optimizer", "优化器"),
    "policy": ("learning rate: linear warm-up, cosine decay", "学习率：先线性上升，再余弦下降"),
    "loop": ("training loop", "训练循环"),
    "hooks": ("log a sample at the start, and answers during training", "开始时展示数据，途中抽查回答"),
    "timer": ("time of each iteration", "记录每次迭代的时间"),
    "logger": ("a line in the log every `interval` iterations", "每 `interval` 次迭代打印一行日志"),
    "param_scheduler": ("learning rate of the next iteration", "更新学习率"),
    "checkpoint": ("what to save, and when", "何时保存、保存什么"),
    "sampler_seed": ("shuffle differently in each epoch", "每轮打乱数据的顺序"),
    "trainer": ("transformers does the rest", "其余由 transformers 完成"),
    "environment": ("processes", "进程"),
    "visualizer": (
        "scalars are written to the work dir; backends can be added",
        "标量写入工作目录，可另加后端",
    ),
    "load_from": ("weights to start from", "从这个检查点的权重开始"),
    "resume": ("continue the run of `load_from`", "是否接着 `load_from` 的训练"),
    "randomness": ("seed=None: a random seed for each run", "seed=None 表示每次随机"),
}

PARTS = {
    "1": "Settings",
    "2": "Model & Tokenizer",
    "2_images": "Model & Tokenizer & Image Processor",
    "3": "Dataset & Dataloader",
    "4": "Scheduler & Optimizer",
    "5": "Runtime",
}


def comment(key: str, lang: str) -> str:
    """The comment of that key, or `""` if it has none."""
    return COMMENTS[key][LANGUAGES.index(lang)] if key in COMMENTS else ""
