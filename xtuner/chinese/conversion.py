"""What is said of checkpoints, adapters and models on the way to other forms, in Chinese, by the English."""

from __future__ import annotations

FILES = {
    "the model": "模型",
    "the base model": "基座模型",
    "the adapter": "适配器",
    "Saving": "保存",
    "Merging": "合并",
    "Splitting": "拆分",
    "{what} {name!r} is not a folder.": "{what} {name!r} 不是目录。",
    "{what} {name!r} is neither a folder nor to be had from the hub: {reason}": (
        "{what} {name!r} 既不是目录，也无法从 hub 获取：{reason}"
    ),
    "{path} is a file: name a folder to write to.": "{path} 是文件：请给出要写入的目录。",
    "{path} holds {names}, which no conversion wrote: name a new or an empty folder.": (
        "{path} 中有 {names}，不是转换写出的：请给出新的或空的目录。"
    ),
    " and {count} others": " 等（另有 {count} 个）",
    "{path} is read by this command and cannot be its output: name another folder.": (
        "{path} 是此命令的输入，不能同时是输出：请给出另一个目录。"
    ),
    "%s existed: %s replaced": "%s 已存在：已替换 %s",
    "{path}: the disk is full ({error}). Nothing new was left there; free some space.": (
        "{path}：磁盘已满（{error}）。没有留下新文件；请腾出空间。"
    ),
    "{need:,} bytes needed, {free:,} free": "需要 {need:,} 字节，可用 {free:,} 字节",
    "{path} is incomplete or not safetensors: {error}. Download it again.": (
        "{path} 不完整或不是 safetensors：{error}。请重新下载。"
    ),
    "{folder} holds no weights: none of {names} and no index of shards.": (
        "{folder} 中没有权重：没有 {names}，也没有分片索引。"
    ),
    "max_shard_size is {text!r}, which is no size: write it as 500MB, 2GB or 2GiB.": (
        "max_shard_size 为 {text!r}，不是大小：请写成 500MB、2GB 或 2GiB。"
    ),
    "{path} is named by the folder's index but is not there. Fetch it again.": (
        "{path} 写在目录的索引中，但文件不存在。请重新下载。"
    ),
    "{path} cannot be read as a file of weights: {reason}": "无法把 {path} 作为权重文件读取：{reason}",
    "{index} is no index of weights: {error!r}. Fetch it again.": (
        "{index} 不是权重索引：{error!r}。请重新下载。"
    ),
    "{folder} holds no config.json: it is not a model folder.": (
        "{folder} 中没有 config.json：它不是模型目录。"
    ),
    "{path} is no JSON: {error}": "{path} 不是 JSON：{error}",
}

CHECKPOINTS = {
    "{path} is sharded already: copy it, or leave out --sharded to make one file of it": (
        "{path} 已是分片检查点：请直接复制，或去掉 --sharded 以写成一个文件"
    ),
    "{path} is one file already: copy it, or add --sharded to write it as a sharded checkpoint": (
        "{path} 已是一个文件：请直接复制，或加上 --sharded 以写成分片检查点"
    ),
    "Load PTH model from %s": "加载检查点 %s",
    "Saving %s to %s": "把 %s 写入 %s",
    "LLM": "LLM",
    "LLM tokenizer": "LLM 的 tokenizer",
    "Saving %s adapter to %s": "把 %s 的适配器写入 %s",
    "Saving %s model to %s": "把 %s 的模型写入 %s",
    "Saving projector to %s": "把 projector 写入 %s",
    "Convert LLM to %s": "把 LLM 转为 %s",
    "{filename}: model.llm is not set; only language models can be converted.": (
        "{filename}：没有设置 model.llm；只能转换语言模型。"
    ),
    "{config} trains LoRA, but {path} holds no LoRA weights: give the config of that run.": (
        "{config} 训练 LoRA，而 {path} 中没有 LoRA 权重：请给出那次训练的配置。"
    ),
    "{config} sets no lora, but {path} holds LoRA weights: give the config of that run.": (
        "{config} 没有设置 lora，而 {path} 中有 LoRA 权重：请给出那次训练的配置。"
    ),
    "{path} holds no weights.": "{path} 中没有权重。",
    "{path} holds {name!r}, which is not part of a language model.": (
        "{path} 中有 {name!r}，它不属于语言模型。"
    ),
    "{path} holds {name!r}, which is no part of a LLaVA.": "{path} 中有 {name!r}，它不属于 LLaVA。",
    "{path} has no projector: it is not the checkpoint of a LLaVA run.": (
        "{path} 中没有 projector：它不是 LLaVA 训练的检查点。"
    ),
    "model.lora.r is {r}, but the checkpoint's LoRA weights have rank {ranks}: give the config that this "
    "checkpoint was trained with.": (
        "model.lora.r 为 {r}，而检查点的 LoRA 权重的秩为 {ranks}：请给出训练此检查点的配置。"
    ),
    "{path}: {name} reaches {largest:.3g}, beyond float16: use --fp32.": (
        "{path}：{name} 达到 {largest:.3g}，超出 float16 的范围：请用 --fp32。"
    ),
    "{path} holds no config.json and {base!r} is not a local model folder: set pretrained_model_name_or_path "
    "to the base's folder with --cfg-options.": (
        "{path} 中没有 config.json，{base!r} 也不是本机的模型目录："
        "请用 --cfg-options 把 pretrained_model_name_or_path 设为基座的目录。"
    ),
    "save_format {save_format!r} is for LLaVA and InternVL, and {config} has none": (
        "save_format {save_format!r} 用于 LLaVA 和 InternVL，而 {config} 中没有"
    ),
    "save_format is {save_format!r}: write one of xtuner, {names}.": (
        "save_format 为 {save_format!r}：请写 xtuner、{names} 之一。"
    ),
    "save_format is {save_format!r}: write one of {names}.": (
        "save_format 为 {save_format!r}：请写 {names} 之一。"
    ),
    "{name} is in the form of transformers: write --save-format huggingface.": (
        "{name} 是 transformers 的形式：请写 --save-format huggingface。"
    ),
    "the projector has {count} layers, and this format is for two: leave out --save-format.": (
        "projector 有 {count} 层，而这种格式只用于两层：请去掉 --save-format。"
    ),
    "the package llava has no language model of the family {family!r}: write --save-format huggingface "
    "instead.": "llava 包没有 {family!r} 系列的语言模型：请改写 --save-format huggingface。",
}

MERGE = {
    "Saving to %s...": "正在写入 %s...",
    "device is {name!r}: write auto, or one of {names}.": "device 为 {name!r}：请写 auto，或 {names} 之一。",
    "device is {name!r}, but torch finds none here: write auto or cpu.": (
        "device 为 {name!r}，但 torch 在这里找不到：请写 auto 或 cpu。"
    ),
    "merged against base + adapter: largest difference of logits %.3g (largest logit %.3g)": (
        "合并后的模型与基座加适配器对比：logits 最大差 %.3g（最大 logit %.3g）"
    ),
    "merged against base + adapter: largest difference of logits %.3g": (
        "合并后的模型与基座加适配器对比：logits 最大差 %.3g"
    ),
    "that is more than rounding explains: compare the answers of both before you use it": (
        "超出了舍入误差所能解释的范围：使用前请对比两者的回答"
    ),
    "logits not compared: that needs %.1f GB, %.1f GB are free. The merge itself is complete.": (
        "未对比 logits：需要 %.1f GB，可用 %.1f GB。合并本身已完成。"
    ),
    "{folder} has no adapter_config.json: give the folder that pth_to_hf wrote.": (
        "{folder} 中没有 adapter_config.json：请给出 pth_to_hf 写出的目录。"
    ),
    "{path}: peft_type is {kind!r}; only LORA adapters can be merged.": (
        "{path}：peft_type 为 {kind!r}；只能合并 LORA 适配器。"
    ),
    "{path}: init_lora_weights is {init!r}, which changes the base before training; convert the "
    "adapter first "
    "(peft: save_pretrained(path_initial_model_for_weight_conversion=...)).": (
        "{path}：init_lora_weights 为 {init!r}，它在训练前会改变基座；请先转换适配器"
        "（peft：save_pretrained(path_initial_model_for_weight_conversion=...)）。"
    ),
    "its adapter_config.json names {named}": "其 adapter_config.json 写的是 {named}",
    "the adapter {folder} has lora_A {a} and lora_B {b} for {parameter}; rank {rank} for {count} "
    "experts of the "
    "base {base_name} is [{rows}, {inputs}] and [{outputs}, {rows}]: it was trained on another base "
    "({named}).": (
        "适配器 {folder} 对 {parameter} 的 lora_A 为 {a}、lora_B 为 {b}；而基座 {base_name} 有 "
        "{count} 个专家，"
        "秩为 {rank} 时应为 [{rows}, {inputs}] 和 [{outputs}, {rows}]：它是在另一个基座上训练的（{named}）。"
    ),
    "{folder}: {module} has only one of lora_A and lora_B; the adapter is damaged.": (
        "{folder}：{module} 的 lora_A 和 lora_B 只有一个；适配器已损坏。"
    ),
    "{folder}: {module} has lora_A of shape {shape}, but adapter_config.json gives it rank {rank}; "
    "only rank x in "
    "matrices of linear and embedding layers can be merged.": (
        "{folder}：{module} 的 lora_A 形状为 {shape}，而 adapter_config.json 中的秩为 {rank}；"
        "只能合并线性层和嵌入层的“秩 x 输入”矩阵。"
    ),
    "the adapter {folder} fits a {name} of shape {shape}, but the base {base_name} has {has}: it was "
    "trained on "
    "another base ({named}).": (
        "适配器 {folder} 适合形状为 {shape} 的 {name}，而基座 {base_name} 中为 {has}："
        "它是在另一个基座上训练的（{named}）。"
    ),
    "{path}: an adapter with {key} cannot be merged; use it beside its base instead.": (
        "{path}：使用 {key} 的适配器不能合并；请与基座一起使用。"
    ),
    "{folder} holds {key}, an unknown kind of LoRA weight.": "{folder} 中有 {key}，是未知种类的 LoRA 权重。",
    "the adapter {folder} has a bias for {module} (lora_bias), and that layer of the base "
    "{base_name} has none: "
    "no merged model can hold it. Use the adapter beside its base.": (
        "适配器 {folder} 对 {module} 有偏置（lora_bias），而基座 {base_name} 的该层没有："
        "合并后的模型无法容纳它。请把适配器与基座一起使用。"
    ),
    "the weights of {folder} are quantised; an adapter is merged into the original weights. Name the "
    "folder of "
    "the model in 16 or 32 bit.": (
        "{folder} 的权重已量化；适配器应合并到原始权重。请给出 16 或 32 位模型的目录。"
    ),
    "the adapter changes %s of tied embeddings: the merged model holds both matrices": (
        "适配器改变了共享嵌入中的 %s：合并后的模型分别保存两个矩阵"
    ),
    "the adapter {folder} was trained with more tokens than {base_dir} has, and holds no new rows of {name}: "
    "train with both the embedding and the head in modules_to_save": (
        "适配器 {folder} 训练时的 token 比 {base_dir} 多，却没有 {name} 的新行："
        "训练时请把嵌入层和输出头都写入 modules_to_save"
    ),
    "the adapter brings a tokenizer and no rows for tokens that the base lacks: the merged model has "
    "the base's "
    "tokenizer": ("适配器带有 tokenizer，却没有基座所缺 token 的行：合并后的模型使用基座的 tokenizer"),
    "{name} is one with {own} in the base {base_dir}, and the adapter {folder} has another change "
    "for each: no "
    "merged model can hold both. Use the adapter beside its base.": (
        "{name} 与 {own} 在基座 {base_dir} 中是同一个，而适配器 {folder} 对两者的改变不同："
        "合并后的模型无法同时容纳。请把适配器与基座一起使用。"
    ),
    "the adapter {folder} was trained on another base ({named}): {error}": (
        "适配器 {folder} 是在另一个基座上训练的（{named}）：{error}"
    ),
}

TEMPLATES = {
    "%s: the prompt template %s, instead of the base's; %d of %d dialogues give the token ids of training": (
        "%s：对话模板 %s，代替基座自带的；token id 与训练时相同的对话：%d，共 %d"
    ),
    "%s: the prompt template %s, instead of none; %d of %d dialogues give the token ids of training": (
        "%s：对话模板 %s（原来没有）；token id 与训练时相同的对话：%d，共 %d"
    ),
    "The tokenizer's own chat template gives the prompts of training and is kept": (
        "tokenizer 自带的对话模板与训练时的提示相同，予以保留"
    ),
    "the tokenizer merges tokens across the ends of the prompt template: programs that encode a "
    "dialogue as one "
    "text give the model other tokens than training; xtuner chat and serve do not": (
        "tokenizer 会跨对话模板的边界合并 token：把整段对话作为一个文本编码的程序，"
        "给模型的 token 与训练时不同；xtuner chat 和 serve 没有这个问题"
    ),
    "the folder keeps the base's chat template and end-of-turn tokens: %s": (
        "目录保留基座的对话模板和结束 token：%s"
    ),
    "An answer ends with %s: %s": "回答的结束 token 为 %s：%s",
    "%r ends an answer but is several tokens: set servers to stop at this text": (
        "%r 是回答的结尾，但由多个 token 组成：请在服务器中设置遇到此文本时停止"
    ),
    "%s: prompt template %s. Next: ollama create NAME -f %s": (
        "%s：对话模板 %s。下一步：ollama create NAME -f %s"
    ),
    "Prompt template: %s, which equals the tokenizer's chat_template": (
        "对话模板：%s，与 tokenizer 的 chat_template 相同"
    ),
    "the tokenizer's chat_template cannot be written for Ollama: {cure}": (
        "tokenizer 的 chat_template 无法写成 Ollama 的形式：{cure}"
    ),
    "the model's prompt template is not known: {cure}": "不知道模型的对话模板：{cure}",
    "name one with --prompt-template": "请用 --prompt-template 指定",
    "--gguf {weights}: no such file; make it with xtuner convert gguf": (
        "--gguf {weights}：没有这个文件；请用 xtuner convert gguf 生成"
    ),
    "Ollama's templates cannot count rounds, as this prompt template does: use another one": (
        "Ollama 的模板不能像此对话模板那样给轮次编号：请用另一个模板"
    ),
    'Ollama ends the text at a line that ends with """: remove these quotes': (
        'Ollama 会在以 """ 结尾的行结束文本：请去掉这些引号'
    ),
}

GGUF = {
    "%s: %.1f MB": "%s：%.1f MB",
    "logits not compared: that needs %.1f GB, %.1f GB are free": "未对比 logits：需要 %.1f GB，可用 %.1f GB",
    "the GGUF file does not equal {folder}: logits differ by {difference:.3g} of {largest:.3g}{cause}": (
        "GGUF 文件与 {folder} 不一致：logits 相差 {difference:.3g}，最大为 {largest:.3g}{cause}"
    ),
    "{name} is {value} in its config.json and {other} in the file": (
        "{name} 在其 config.json 中为 {value}，在文件中为 {other}"
    ),
    "{name} holds {largest:g}, more than f16 can hold: use --type q8_0": (
        "{name} 中有 {largest:g}，超出 f16 的范围：请用 --type q8_0"
    ),
    "llama.cpp may split text differently from this tokenizer: compare their tokens": (
        "llama.cpp 的分词可能与此 tokenizer 不同：请对比两者的 token"
    ),
    "the tokenizer has no tokenizer.json, which GGUF files need": (
        "tokenizer 没有 tokenizer.json，而 GGUF 文件需要它"
    ),
    "the tokenizer is a {kind}: GGUF files are written for BPE only": (
        "tokenizer 是 {kind}：只能为 BPE 写 GGUF 文件"
    ),
    "a GGUF file holds one end-of-turn token: set llama.cpp to stop at %s too": (
        "GGUF 文件只有一个结束 token：请设置 llama.cpp 也在 %s 处停止"
    ),
    "the tokenizer has token {token}, the model's embedding {num_rows} rows": (
        "tokenizer 有编号为 {token} 的 token，而模型的嵌入层只有 {num_rows} 行"
    ),
    "{out} is neither a folder nor a file name that ends in .gguf: give one of them": (
        "{out} 既不是目录，也不是以 .gguf 结尾的文件名：请给出其中之一"
    ),
    "{source} is a model of the family {family!r}; GGUF files are written for {names}. llama.cpp's own "
    "convert_hf_to_gguf.py knows others": (
        "{source} 是 {family!r} 系列的模型；可写 GGUF 文件的系列有 {names}。"
        "llama.cpp 自己的 convert_hf_to_gguf.py 支持其他系列"
    ),
    "{source}: {setting} of its config.json cannot be written to GGUF: {reason}": (
        "{source}：其 config.json 中的 {setting} 无法写入 GGUF：{reason}"
    ),
    "the rope scaling {kind!r}": "rope 缩放 {kind!r}",
    "llama.cpp's own convert_hf_to_gguf.py may know it": "llama.cpp 自己的 convert_hf_to_gguf.py 可能支持",
    "{name} = {value} of the yarn scaling": "yarn 缩放的 {name} = {value}",
    "llama.cpp computes it as {usual:g}": "llama.cpp 按 {usual:g} 计算",
    "mscale of the yarn scaling": "yarn 缩放的 mscale",
    "llama.cpp's Llama has none": "llama.cpp 的 Llama 没有它",
    "llama.cpp's {architecture} has silu": "llama.cpp 的 {architecture} 使用 silu",
    "llama.cpp's {architecture} has no bias after attention": (
        "llama.cpp 的 {architecture} 在注意力之后没有偏置"
    ),
    "dynamic rope scaling is left out: up to %d tokens it does nothing": (
        "略去动态 rope 缩放：不超过 %d 个 token 时它不起作用"
    ),
    "llama.cpp attends to all tokens, not to the last %d: it answers as the folder up to %d tokens": (
        "llama.cpp 关注全部 token，而不是最后 %d 个：不超过 %d 个 token 时与目录中的模型回答相同"
    ),
    "{source}: norm_topk_prob is {norm_topk_prob}, but llama.cpp assumes {norms}": (
        "{source}：norm_topk_prob 为 {norm_topk_prob}，而 llama.cpp 假定为 {norms}"
    ),
    "{source}: some layers have no experts, but llama.cpp expects them in every layer": (
        "{source}：有的层没有专家，而 llama.cpp 要求每层都有"
    ),
    "xtuner convert gguf needs the package gguf: {command}": "xtuner convert gguf 需要 gguf 包：{command}",
    "{folder}: GGUF's {architecture} has no tensor for {own}": (
        "{folder}：GGUF 的 {architecture} 没有对应 {own} 的张量"
    ),
}

CONVERSION = {**FILES, **CHECKPOINTS, **MERGE, **TEMPLATES, **GGUF}
