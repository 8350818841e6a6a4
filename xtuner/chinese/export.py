"""What quantised export says, in Chinese, by the English."""

EXPORT: dict[str, str] = {
    "a model in 8 or 4 bits for vLLM and transformers": "8 或 4 位的模型，供 vLLM 和 transformers 使用",
    "Write a model with its linear layers in 8 or 4 bits.": "写出线性层为 8 或 4 位的模型。",
    "fp8 and int8: weights and inputs of linear layers in 8 bits; w4a16: weights in 4 bits (fp8)": (
        "fp8 和 int8：线性层的权重和输入为 8 位；w4a16：权重为 4 位（默认 fp8）"
    ),
    "of w4a16, how many columns share a scale (the largest that divides all widths)": (
        "w4a16：共用一个缩放系数的列数（默认取能整除所有宽度的最大值）"
    ),
    "of w4a16, with a zero point for each group, for vLLM": "w4a16：每组带一个零点，供 vLLM 使用",
    "a text file whose perplexity is measured before and after": "文本文件，量化前后各测一次困惑度",
    "do not run the model before and after it is rounded": "不在量化前后运行模型",
    "Rounding": "量化",
    "{count} matrices have rows that are no multiple of 256, and are larger than {kind}: {types}": (
        "{count} 个矩阵的行长不是 256 的倍数，比 {kind} 大：{types}"
    ),
    "K-quants need llama.cpp's own code, by the package xllamacpp: {command}": (
        "K 量化需要 llama.cpp 自己的代码，由 xllamacpp 包提供：{command}"
    ),
    "{folder} is an adapter: merge it first, with {command}": "{folder} 是适配器：请先合并：{command}",
    "there is no text file {path}": "没有文本文件 {path}",
    "{path} holds no text to read: fewer than two tokens": "{path} 没有可读的文本：不足两个 token",
    "{what}: largest difference of logits {difference:.3g} (largest logit {largest:.3g})": (
        "{what}：logits 最大差 {difference:.3g}（最大 logit {largest:.3g}）"
    ),
    "perplexity of {name} ({count} tokens): {before:.4g} before, {after:.4g} after ({change:+.2%})": (
        "{name} 的困惑度（{count} 个 token）：量化前 {before:.4g}，量化后 {after:.4g}（{change:+.2%}）"
    ),
    "--format is {name!r}: write one of {known}": "--format 是 {name!r}：请写 {known} 之一",
    "{option} is for --format w4a16: leave it out": "{option} 用于 --format w4a16：请去掉",
    "--group-size is {size}: write one of {known}": "--group-size 是 {size}：请写 {known} 之一",
    "{folder} is a folder of the package llava, whose programs do not read compressed-tensors: "
    "make one of transformers of it first": (
        "{folder} 是 llava 包的目录，它的程序不能读取 compressed-tensors：请先转成 transformers 的目录"
    ),
    "the weights of {folder} are quantised already, by {method}: name the folder of the model in "
    "16 or 32 bit": "{folder} 的权重已由 {method} 量化：请给出 16 或 32 位模型的目录",
    "{folder}: the weight of {name} is no tensor of the files, and cannot be rounded by itself": (
        "{folder}：{name} 的权重在文件中不是单独的张量，不能单独量化"
    ),
    "{folder}: {name} is {dtype}: only weights in 16 or 32 bit are rounded": (
        "{folder}：{name} 是 {dtype}：只量化 16 或 32 位的权重"
    ),
    "{folder} has no linear layers to round": "{folder} 没有可量化的线性层",
    "{folder} has experts ({name}), most of its weights, which cannot be written in this format: use "
    "xtuner convert gguf if it knows the family": (
        "{folder} 有专家（{name}），占权重的大部分，不能写成这种格式；"
        "如果 xtuner convert gguf 支持该系列，请用它"
    ),
    "groups of {size} columns: some layers' width is no multiple of {usual}": (
        "每组 {size} 列：有的层的宽度不是 {usual} 的倍数"
    ),
    "{name} has {width} columns, no multiple of {size}: {cure}": (
        "{name} 有 {width} 列，不是 {size} 的倍数：{cure}"
    ),
    "{format}: {count} linear layers are rounded, {others} others stay as they are; {before:.1f} MB "
    "of weights become {after:.1f} MB": (
        "{format}：量化 {count} 个线性层，其余 {others} 个不变；权重从 {before:.1f} MB 变为 {after:.1f} MB"
    ),
    "not compared: that needs {needed:.1f} GB, {free:.1f} GB are free. The folder is complete.": (
        "未对比：需要 {needed:.1f} GB，空闲 {free:.1f} GB。目录已完整写出。"
    ),
}
