"""The words of the generated pages themselves, in Chinese by the English."""

from xtuner.language import language

_CHINESE = {
    "Commands": "命令",
    "Printed from the parsers; xtuner COMMAND --help shows the same.": (
        "由命令行解析器生成，与 `xtuner 命令 --help` 的内容相同。"
    ),
    "Names of a config": "配置里的名字",
    "Printed from `xtuner/config/schema.py`, by which `check` and `train` look at a config.": (
        "由 `xtuner/config/schema.py` 生成，`xtuner check` 和 `xtuner train` 用它检查配置。"
    ),
    "Names": "名字",
    "Names that are not here are variables of your own.": "不在表中的名字是用户自己的变量。",
    "name": "名字",
    "meaning": "含义",
    "required": "必需",
    "yes": "是",
    "Of the Trainer of transformers": "transformers 的 Trainer",
    "Only with `framework = 'huggingface'`.": "仅当 `framework = 'huggingface'` 时。",
    "Keys": "键",
    "These dicts have no other keys. A dict with a `type` has the arguments of that type.": (
        "这些字典没有别的键；带 `type` 的字典，键就是该类型的参数。"
    ),
    "keys": "键",
    "Values": "取值",
    "value": "值",
    "must be": "应为",
    "one of": "以下之一：",
    "Values that exclude each other": "互相排斥的值",
    "As the error says it; values of the config stand in the braces.": (
        "即报错时的原文，大括号处是配置里的值。"
    ),
    # The meanings of names, as xtuner/config/schema.py has them.
    "the model to train": "要训练的模型",
    "the tokenizer, for hooks and conversion": "分词器，供钩子和转换使用",
    "folder of the run": "这次运行的文件夹",
    "data and its order": "数据及其顺序",
    "how long to train": "训练多久",
    "data of validation: held_out, a fraction of the training rows, or a dataset": (
        "验证数据：held_out（训练数据的一部分）或另一个数据集"
    ),
    "the loop of validation": "验证循环",
    "metrics of answers that validation measures instead of the loss": "验证时代替损失的回答指标",
    "data of xtuner test, instead of val_dataloader": "xtuner test 的数据，代替 val_dataloader",
    "the loop of xtuner test": "xtuner test 的循环",
    "metrics of answers that xtuner test measures instead of the loss": "xtuner test 代替损失的回答指标",
    "how answers are sampled and rewarded, for a model that learns from rewards": (
        "从奖励学习的模型如何采样回答、如何给奖励"
    ),
    "optimiser, precision, clipping, accumulation": "优化器、精度、梯度裁剪、累积",
    "learning rate over time": "学习率的变化",
    "timer, logger, param_scheduler, checkpoint, sampler_seed": (
        "timer、logger、param_scheduler、checkpoint、sampler_seed"
    ),
    "further hooks": "更多钩子",
    "name of the model in answers sampled during training": "训练中抽查回答时模型的名字",
    "checkpoint with the initial weights of the run": "提供初始权重的检查点",
    "resume from load_from or the newest checkpoint": "从 load_from 或最新的检查点继续",
    "resume from a checkpoint even if the data has changed": "数据变了也从检查点继续",
    "none, pytorch, slurm or mpi": "none、pytorch、slurm 或 mpi",
    "number of processes that hold a part each of one sequence": "一条序列由多少个进程各持一段",
    "divide weights, gradients and optimiser state among the processes": (
        "把权重、梯度和优化器状态分给各个进程"
    ),
    "let torch compile the layers: True, or a dict of torch.compile's settings": (
        "让 torch 编译各层：True，或 torch.compile 的设置"
    ),
    "train by ZeRO: a built-in name or a JSON file": "用 ZeRO 训练：内置名称或 JSON 文件",
    "process settings": "进程设置",
    "window and unit of log lines": "日志的窗口和单位",
    "the lowest level that is logged": "写入日志的最低级别",
    "writers of scalars": "标量写到哪里",
    "seed and determinism": "随机种子与确定性",
    "number of first updates that xtuner replay can run again, 0 for none": (
        "xtuner replay 可以重新执行的最初几次更新的数目，0 表示不记录"
    ),
    "stop after so many consecutive skipped updates: not finite, or a loss above train_cfg.spike_ratio": (
        "连续跳过这么多次更新就停止：梯度不是有限数，或损失超过 train_cfg.spike_ratio"
    ),
    "mmengine, or huggingface: the Trainer of transformers trains": (
        "mmengine；或 huggingface，由 transformers 的 Trainer 训练"
    ),
    "TrainingArguments of transformers": "transformers 的 TrainingArguments",
    "data of the Trainer": "Trainer 的数据",
    "the adapter of `model`, which is a language model": "`model`（语言模型）的适配器",
    "the class of the Trainer": "Trainer 的类",
}


def word(text: str) -> str:
    """A text of these pages in the language of the page."""
    return _CHINESE.get(text, text) if language() == "zh" else text
