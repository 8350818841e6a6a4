"""What is said of training some layers of a whole model."""

from __future__ import annotations

LAYERS = {
    "Expanding": "添加层",
    "Layers %s of %d are new": "新的层：%s，共 %d 层",
    "Trained layers: %s of %d": "训练的层：%s，共 %d 层",
    "model.trained_layers = 'added', but no layers were added: run xtuner convert expand": (
        "model.trained_layers = 'added'，但此模型没有添加的层：请运行 xtuner convert expand"
    ),
    "model.trained_layers is {asked!r}; it must be 'added' or a number from 1 to {count}": (
        "model.trained_layers 为 {asked!r}；须为 'added' 或 1 到 {count} 的数"
    ),
    "model.trained_layers trains layers whole; beside model.lora use its layers_to_transform": (
        "model.trained_layers 训练整层；有 model.lora 时请用其 layers_to_transform"
    ),
    "LISAHook: num_layers is {num_layers} and interval {interval}; both must be at least 1": (
        "LISAHook：num_layers 为 {num_layers}，interval 为 {interval}；两者至少为 1"
    ),
    "LISAHook: num_layers is {num_layers}, and the model has {count}": (
        "LISAHook：num_layers 为 {num_layers}，而模型有 {count} 层"
    ),
    "LISAHook trains whole layers: leave out model.lora": "LISAHook 训练整层：请去掉 model.lora",
    "LISAHook frees whole layers: train without --fsdp and --deepspeed": (
        "LISAHook 释放整层：请不用 --fsdp 和 --deepspeed 训练"
    ),
    "--blocks is {blocks}; it must divide the {count} layers of {source}": (
        "--blocks 为 {blocks}；它须整除 {source} 的 {count} 层"
    ),
    "{source}: its layers do not end in o_proj and down_proj (or wo and w2), so none is copied": (
        "{source}：其各层不以 o_proj 和 down_proj（或 wo 和 w2）结尾，因此不能复制"
    ),
    "{source}: its config says {name} by the numbers of layers, so no layers can be added": (
        "{source}：其配置按层号写有 {name}，因此不能添加层"
    ),
    "{source}: layers of this family change something though their last matrices are zero": (
        "{source}：此系列的层在末尾矩阵为零时仍有改变：未扩展"
    ),
    "Not compared with the base: its layers cannot be read one by one": "未与基座比较：其各层不能逐一读取",
    "From iter %d on layers %s train": "从第 %d 次迭代起训练层 %s",
    "a model with more layers": "层数更多的模型",
    "Add copies of layers that change nothing yet, to train these alone (LLaMA Pro).": (
        "添加暂不改变结果的层副本，只训练它们（LLaMA Pro）。"
    ),
    "the model folder": "模型目录",
    "how many layers to add, evenly among the others (8)": "添加多少层，均匀分布在其他层之间（8）",
}
