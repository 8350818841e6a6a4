"""What `xtuner check` tells, and other commands of a config, a folder or a path that is wrong.

`{path} is ...` begins `{path} 为...` throughout: `schema.is_of_value` looks for that.
"""

from __future__ import annotations

REPORT = {
    "         as on an NVIDIA GPU: on {device} it was never measured": (
        "         按 NVIDIA GPU 估计：在 {device} 上从未测量过"
    ),
    "model.llm.quantization_config with load_in_4bit=True (QLoRA)": (
        "带 load_in_4bit=True 的 model.llm.quantization_config（QLoRA）"
    ),
    "model.lora = dict(type=LoraConfig, r=64) instead of all weights": (
        "model.lora = dict(type=LoraConfig, r=64)，不训练全部权重"
    ),
    " with rows shared by {count}": "，每行由 {count} 个进程共同处理",
    ", ": "，",
    "; ": "；",
    " or ": " 或 ",
    " and ": " 和 ",
    "no errors": "没有错误",
    "{count} errors": "{count} 个错误",
    "no warnings": "没有警告",
    "{count} warnings": "{count} 个警告",
    "{text!r} is no whole number of at least 1": "{text!r} 不是不小于 1 的整数",
    "memory   unknown: there is no model folder here to read the sizes from": (
        "内存     未知：本机没有可读取模型大小的模型目录"
    ),
    "longest  batch {number} of {total} with {tokens:,} tokens: two updates took {duration} and {peak} "
    "at most. Its rows: {rows}": (
        "最长     第 {number} 个批次（共 {total} 个）有 {tokens:,} 个 token：两次更新用了 {duration}，"
        "内存最多 {peak}。其数据：{rows}"
    ),
    "--longest tries the training of XTuner's engine, which this config does not use": (
        "--longest 试的是 XTuner 引擎的训练，而这个配置不用它"
    ),
    "accelerator": "加速器",
    "disk": "磁盘",
    "packages": "软件包",
    "not installed": "未安装",
    "variables": "环境变量",
    "no accelerator": "没有加速器",
    "{free} free in the working folder": "当前目录可用 {free}",
    "{count} cores, {total} of memory ({free} free)": "{count} 核，内存 {total}（可用 {free}）",
    ", computes in bf16": "，支持 bf16 计算",
    "{name}, {total} ({free} free), driver {driver}": "{name}，{total}（可用 {free}），驱动 {driver}",
    "not checked here, but by train: {names}": "此处未检查，训练时再检查：{names}",
    "Next: {command}": "下一步：{command}",
    "time     very roughly {duration} for {tokens:.2g} tokens": (
        "时间     {tokens:.2g} 个 token，粗略估计 {duration}"
    ),
    "time     unknown: the size of the data or the speed of this machine is not known": (
        "时间     未知：不知道数据的大小或本机的速度"
    ),
    "{count:.0f} days": "{count:.0f} 天",
    "{count:.0f} hours": "{count:.0f} 小时",
    "{count:.0f} minutes": "{count:.0f} 分钟",
    "{count:.0f} seconds": "{count:.0f} 秒",
    "a second": "一秒",
    "{free} free on {name}": "{name} 可用 {free}",
    ", estimated as a Llama": "，按 Llama 结构估算",
    ", without the parts that see or hear": "，不含视觉和听觉部分",
    ", and {weights} of the parts that see or hear": "，另有视觉和听觉部分的 {weights}",
    "images": "图像",
    " for each of {count} processes, {how},": "，{count} 个进程（{how}）中的每一个",
    "memory   about {total}{each} ({free})": "内存     约 {total}{each}（{free}）",
    "         a batch has up to {tokens} tokens{again}": "         每批最多 {tokens} 个 token{again}",
    "         the model has {weights} weights{about}": "         模型有 {weights}个参数{about}",
    "{billions:.2f} billion": "{billions:.2f}B ",
    "{millions:.2f} million": "{millions:.2f}M ",
    ", every second layer is recomputed": "，每隔一层重计算",
    ", layers are recomputed": "，各层重计算",
    ", layers are recomputed from inputs on the host": "，各层从主机内存中的输入重计算",
    "weights": "权重",
    "reference": "参考模型",
    "adapter": "适配器",
    "optimizer": "优化器",
    "gradients": "梯度",
    "activations": "激活",
    "loss": "损失",
    "layer": "单层计算",
    "step": "更新",
    "KV cache": "KV 缓存",
    "         sampling holds up to {rows} answers of {prompt} + {answer} tokens: a KV cache of {size}": (
        "         采样时最多同时有 {rows} 个回答，各 {prompt} + {answer} 个 token：KV 缓存 {size}"
    ),
    "process": "进程自身",
    "allocator": "分配器预留",
    "mapped file": "映射的文件",
    "on the host": "主机内存",
    "memory: about {need} are needed{each} and {free} are free on {name}: {cures}": (
        "内存：{each}约需 {need}，而 {name} 可用 {free}：{cures}"
    ),
    " for each process": "每个进程",
    "{text} saves {saves}": "{text} 可省 {saves}",
    "memory: each process holds all weights while they are read, {loading}, and {free} are free on {name}: "
    "train with --fsdp, which reads parts": (
        "内存：读取权重时每个进程持有全部权重 {loading}，而 {name} 可用 {free}：请用 --fsdp "
        "训练，它只读各自的部分"
    ),
    "max_length is {length}, and the model has {context} positions: set max_length = {context}": (
        "max_length 为 {length}，而模型只有 {context} 个位置：请设 max_length = {context}"
    ),
    "plan     {processes} processes, {here} on a machine{shared}, each with {memory} ({name}); an update "
    "takes {tokens} tokens": (
        "规划     {processes} 个进程，每台机器 {here} 个{shared}，各有 "
        "{memory}（{name}）；每次更新用 {tokens} 个 token"
    ),
    ", rows shared by {count}": "，每行由 {count} 个进程共同处理",
    "   does not fit": "   放不下",
    "backend": "后端",
    "memory": "内存",
    "reading": "读取",
    "host": "主机",
    "sent": "通信量",
    "scaling": "扩展效率",
    "the rows of {file}": "{file} 的数据行",
}

CONFIG = {
    "the config": "配置",
    "a dict": "一个 dict",
    "a dict(type=...)": "一个 dict(type=...)",
    "a list of dicts": "由 dict 组成的列表",
    "a path as text": "文本形式的路径",
    "a whole number of at least 0": "不小于 0 的整数",
    "a whole number of at least 1": "不小于 1 的整数",
    "a number above 0": "大于 0 的数",
    "a number above 1": "大于 1 的数",
    "a number above 0 and below 1": "大于 0 且小于 1 的数",
    "a number of at least 0": "不小于 0 的数",
    "a number of at least 0 and at most 1": "0 到 1 之间的数",
    "True or False": "True 或 False",
    "True, False or a dict": "True、False 或一个 dict",
    "the name of built-in settings or a JSON file": "内置设置的名称或一个 JSON 文件",
    "{path} is ": "{path} 为",
    "{path} is {value!r}; it must be {what}": "{path} 为 {value!r}，应为{what}",
    "{path} is {value!r}; use one of {names}": "{path} 为 {value!r}，可选值：{names}",
    "{path} is empty: name a file or folder": "{path} 为空：请写出文件或目录",
    " Did you mean {names}?": " 你是不是想写 {names}？",
    " Add the line: {line}": " 请加上这一行：{line}",
    "the config has no {key}.{hint}": "配置中没有 {key}。{hint}",
    "the config has no {name!r}.{hint}": "配置中没有 {name!r}。{hint}",
    "{path} has no key {key!r}.{hint}": "{path} 没有键 {key!r}。{hint}",
    "{path} begins at {begin} and ends at {end}; it must end later": (
        "{path} 从 {begin} 开始，到 {end} 结束；结束必须晚于开始"
    ),
    "{name}: nothing reads this name. Did you mean {near!r}? If it is your own, remove it or use it": (
        "{name}：没有任何地方用到这个名称。你是不是想写 {near!r}？若是你自己的变量，请删除它或用上它"
    ),
    "train_cfg needs either max_epochs or max_iters; it has max_epochs={train_cfg.max_epochs}, "
    "max_iters={train_cfg.max_iters}": (
        "train_cfg 需要 max_epochs 或 max_iters 中的一个；现在 max_epochs={train_cfg.max_epochs}，"
        "max_iters={train_cfg.max_iters}"
    ),
    "val_dataloader needs either held_out (a fraction of the training rows) or a dataset": (
        "val_dataloader 需要 held_out（训练数据中的一部分）或自己的 dataset，二者取一"
    ),
    "model.llm.quantization_config without model.lora: quantised weights cannot be trained; add "
    "lora=dict(type=LoraConfig, ...) or remove quantization_config": (
        "有 model.llm.quantization_config 而没有 model.lora：量化后的权重不能训练；请加上 "
        "lora=dict(type=LoraConfig, ...)，或删除 quantization_config"
    ),
    "model.llm.quantization_config has both load_in_4bit and load_in_8bit; set one of them to False": (
        "model.llm.quantization_config 同时有 load_in_4bit 和 load_in_8bit，请把其中一个设为 False"
    ),
    "{parent} has no {key}: add {key}=dict(type=...)": "{parent} 没有 {key}：请加上 {key}=dict(type=...)",
    "{path} has no type: add type=..., the class that it is made of": (
        "{path} 没有 type：请加上 type=...，即它所属的类"
    ),
    "{path}.type is {kind!r}, which names nothing{how}": "{path}.type 为 {kind!r}，没有这个名称{how}",
    "; import it in the config, or write its whole name, such as {example!r}.{hint}": (
        "；请在配置中导入它，或写出全名，例如 {example!r}。{hint}"
    ),
    "{path}.{key}: no model takes {key!r}.{hint}": "{path}.{key}: 没有模型接受 {key!r}。{hint}",
    "there is no config file {path!r}{near}": "没有配置文件 {path!r}{near}",
    "{path}: not UTF-8 text: {error}": "{path}：不是 UTF-8 文本：{error}",
    "{filename}:{lineno}: _base_ is not read; import the names of the other file: from "
    "xtuner.config import "
    "read_base, then with read_base(): from .other import *": (
        "{filename}:{lineno}：不支持 _base_；请导入另一个文件中的名称：from "
        "xtuner.config import read_base，"
        "然后 with read_base(): from .other import *"
    ),
    "{name} is computed in a way an option cannot replace; edit the file": (
        "{name} 的计算方式使其不能用选项替换，请修改文件"
    ),
    "{origin}: write 'from .{name} import *' instead of 'from . import {name}'": (
        "{origin}：请写 'from .{name} import *'，而不是 'from . import {name}'"
    ),
    "{origin}: write an import of another config on a line of its own at the top level of "
    "the file, or in 'with read_base():' with nothing but such imports": (
        "{origin}：导入其他配置的语句请在文件顶层单独成行，或放在只含此类导入的 'with read_base():' 中"
    ),
    "{origin}: write the names instead of 'from {name} import *'": (
        "{origin}：请写出各个名称，不要用 'from {name} import *'"
    ),
    "{origin}: there is no file {path!r}": "{origin}：没有文件 {path!r}",
    "--cfg-options {key}: no such name.{hint}": "--cfg-options {key}：没有这个名称。{hint}",
    "--cfg-options {key}: {place} is {here!r}, not a dict or list": (
        "--cfg-options {key}：{place} 为 {here!r}，不是 dict 或列表"
    ),
    "--cfg-options {key}: {where} has {count} items, counted from 0; {part!r} is none": (
        "--cfg-options {key}：{where} 有 {count} 项，从 0 开始计数，没有 {part!r}"
    ),
    "--cfg-options {key}: {where} has no {part!r}.{hint}": (
        "--cfg-options {key}：{where} 没有 {part!r}。{hint}"
    ),
    "--cfg-options {text!r}: write KEY=VALUE": "--cfg-options {text!r}：请写成 KEY=VALUE",
    "{path}.{key}: {name} has no argument {key!r}.{hint}": "{path}.{key}: {name} 没有参数 {key!r}。{hint}",
    "{path}.{key} is {value!r}; {name} takes {wanted} here": (
        "{path}.{key} 为 {value!r}，而 {name} 此处接受 {wanted}"
    ),
    "{path}.{key} is set by the run itself; remove it from the config": (
        "{path}.{key} 由训练本身设定，请从配置中删除"
    ),
    "{path}.type is {kind}, which cannot be called": "{path}.type 为 {kind}，不能被调用",
    "{path}: {name} needs {key!r}; add {key}=... to this dict": (
        "{path}: {name} 需要 {key!r}；请在这个 dict 中加上 {key}=..."
    ),
    "{place}{path} is called, but a config only names things: write dict(type={name}, ...) instead of "
    "{name}(...)": "{place}{path} 被调用，而配置只写名称：请写 dict(type={name}, ...)，不要写 {name}(...)",
    "{place}{path} is used as text, but it only names an object": (
        "{place}{path} 被当作文本，但它只是对象的名称"
    ),
    "{place}{path} has no counterpart here: {instead}": "{place}{path} 在这里没有对应：{instead}",
    "{path} has no counterpart here: {instead}": "{path} 在这里没有对应：{instead}",
    "{place}{path} cannot be imported: {error}": "{place}{path} 无法导入：{error}",
    "{place}{path} cannot be imported: there is no module {module!r}. Install it, or correct the name": (
        "{place}{path} 无法导入：没有模块 {module!r}。请安装它，或改正名称"
    ),
    "{path} cannot be imported: there is no module {module!r}. {cure}, or correct the name": (
        "{path} 无法导入：没有模块 {module!r}。{cure}，或改正名称"
    ),
    "write dict(type=TheClass, ...); any class or function can be a type": (
        "请写 dict(type=TheClass, ...)；任何类或函数都可作为 type"
    ),
    "weights are never initialised twice; remove it": "权重不会重复初始化，请删除它",
    "name the class itself: custom_hooks = [dict(type=MyHook)]": (
        "请直接写类：custom_hooks = [dict(type=MyHook)]"
    ),
    "use pathlib.Path(folder).mkdir(parents=True, exist_ok=True)": (
        "请用 pathlib.Path(folder).mkdir(parents=True, exist_ok=True)"
    ),
    "use xtuner.config.load_config": "请用 xtuner.config.load_config",
    "rows are cut and joined by the model itself: set sequence_parallel_size; the functions it uses are in "
    "xtuner.parallel.sequence.ulysses": (
        "数据行由模型自己切分和合并：请设 sequence_parallel_size；所用函数在 xtuner.parallel.sequence.ulysses"
    ),
    "Install it": "请安装它",
    "Install it ({command})": "请安装它（{command}）",
    "{place}{path}: {owner} has no {attribute!r}.{hint}": (
        "{place}{path}: {owner} 中没有 {attribute!r}。{hint}"
    ),
    "{path}: {module} has no {name!r}.{hint}": "{path}: {module} 中没有 {name!r}。{hint}",
    "{path}: torch has no {name!r}.{hint}": "{path}: torch 中没有 {name!r}。{hint}",
    # what this version does not have
    "{what} is not available in this version; {instead}": "此版本不支持{what}；{instead}",
    "framework = 'huggingface' does not read {key}: use training_args instead, or leave framework out": (
        "framework = 'huggingface' 不读取 {key}：请改用 training_args，或去掉 framework"
    ),
    "DeepSeek-V2 with its experts in shards": "专家分片的 DeepSeek-V2",
    "choose another model": "请换一个模型",
    "HFCheckpointHook makes a folder of the last checkpoint, which is not saved: set "
    "default_hooks.checkpoint.save_last = True": (
        "HFCheckpointHook 用最后的检查点生成模型目录，而它没有保存："
        "请设置 default_hooks.checkpoint.save_last = True"
    ),
    # templates
    "{path} is another template than the data has: the samples will not show what is learnt": (
        "{path} 与数据所用的模板不同：抽查的回答反映不出学到的内容"
    ),
    "{path} is PROMPT_TEMPLATE.auto, the chat_template of the tokenizer, and {folder} has none: name a "
    "template, such as PROMPT_TEMPLATE.default": (
        "{path} 为 PROMPT_TEMPLATE.auto，即 tokenizer 的 chat_template，而 {folder} 没有："
        "请指定一个模板，例如 PROMPT_TEMPLATE.default"
    ),
    "the tokenizer of {folder} has no token {mark!r}, so the template's marks fall apart; {cure}": (
        "{folder} 的 tokenizer 没有 {mark!r} 这个 token，模板的标记会被拆散；{cure}"
    ),
    "use {names}": "请用 {names}",
    "use PROMPT_TEMPLATE.default, whose marks are plain words": (
        "请用 PROMPT_TEMPLATE.default，它的标记是普通文字"
    ),
    "PROMPT_TEMPLATE.auto (the tokenizer's own)": "PROMPT_TEMPLATE.auto（tokenizer 自带的模板）",
}

PATHS = {
    "{name} is not here, so it is taken for a name on the hub{hint}": (
        "本机没有 {name}，因此当作 hub 上的名称{hint}"
    ),
    "load_from: {error}; correct the path, or set load_from = None{hint}": (
        "load_from: {error}；请改正路径，或设 load_from = None{hint}"
    ),
    "model.peft_model = {adapter!r}: there is no such file or folder{hint}": (
        "model.peft_model = {adapter!r}：没有这个文件或目录{hint}"
    ),
    "{name} needs one of: {names}": "{name} 后面需要下列之一：{names}",
    "there is no command {name!r}.{hint} See xtuner --help": "没有命令 {name!r}。{hint} 请看 xtuner --help",
    "{name} holds DeepSpeed settings, not a training: pass it to --deepspeed.": (
        "{name} 是 DeepSpeed 设置，不是训练配置：请传给 --deepspeed。"
    ),
    "{name} was a script, not a training. Instead: {instead}": (
        "{name} 曾是脚本，不是训练配置。可改用：{instead}"
    ),
    "There is no built-in config named {name!r}.{hint} `xtuner list-cfg -p WORD` shows the "
    "names that contain "
    "a word.": "没有名为 {name!r} 的内置配置。{hint} `xtuner list-cfg -p WORD` 可列出包含某个词的名称。",
    "There is no built-in DeepSpeed setting named {name!r}.{hint} There are {names}; a path to a JSON file "
    "works too.": "没有名为 {name!r} 的内置 DeepSpeed 设置。{hint} 有 {names}；也可写 JSON 文件的路径。",
    "{recipe} has no setting {name!r}.{hint} It has {names}.": (
        "{recipe} 没有设置 {name!r}。{hint} 它有 {names}。"
    ),
    "there is no {kind} named {name!r}.{hint} Known: {names}": (
        "没有名为 {name!r} 的{kind}。{hint} 已有：{names}"
    ),
    ". Name your own file here": "。请在此写上你自己的文件",
    "there is no data file {file} (looked for {place}){near}": "没有数据文件 {file}（找的是 {place}）{near}",
    "the data file {file} is a folder: name a file in it": "数据文件 {file} 是一个目录：请写出其中的文件",
    "; near it: {names}": "；名称相近的有：{names}",
    "; {there} is there, but paths count from where the command runs: write that, or the whole path": (
        "；有 {there}，但路径从运行命令的目录算起：请写它，或写完整路径"
    ),
    "There is no adapter folder {path}{near}": "没有适配器目录 {path}{near}",
    "{path} is no adapter: it has no adapter_config.json{cure}": (
        "{path} 不是适配器：没有 adapter_config.json{cure}"
    ),
    ", but checkpoints of a run: make one of them with xtuner convert pth_to_hf": (
        "，而有训练的检查点：请用 xtuner convert pth_to_hf 从中生成适配器"
    ),
    "there is no checkpoint {path!r}{hint}": "没有检查点 {path!r}{hint}",
    "; the newest there is {newest}": "；那里最新的是 {newest}",
    "{file} is damaged: the newest checkpoint is taken by its time": "{file} 已损坏：按时间取最新的检查点",
}

_TEXT_MODEL = "请指定语言模型的目录"
_REASONS = {
    "needs an image with every text": "每段文本都需要配图像",
    "fills in blocks of text by diffusion": "以扩散方式逐块填充文本",
    "needs a protein with every text": "每段文本都需要配蛋白质",
    "reads a whole image or text before it writes (encoder-decoder)": "先读完图像或文本再写（编码器-解码器）",
    "needs sound with every text": "每段文本都需要配声音",
    "makes sound, not text": "生成声音而不是文本",
    "steers robots": "用来控制机器人",
    "reads a text from both sides": "双向读取文本",
}
FOLDERS = {
    "name the folder of a language model": _TEXT_MODEL,
    "There is no model folder {path}{near}": "没有模型目录 {path}{near}",
    "The model {path} is a checkpoint of a run: make a model or an adapter of it with xtuner convert "
    "pth_to_hf": "模型 {path} 是一次训练的检查点：请用 xtuner convert pth_to_hf 将其转换为模型或适配器",
    "The model {path} is a file; name its folder": "模型 {path} 是一个文件，请写它所在的目录",
    "There is no model {path} on this machine, and the hub cannot be reached: give the path "
    "of its folder, or "
    "fetch it where there is a network{near}": (
        "本机没有模型 {path}，也连不上 hub：请给出它的目录路径，或在有网络的地方下载{near}"
    ),
    "The folder {path} has no tokenizer: no {names}": "目录 {path} 没有 tokenizer：缺少 {names}",
    "The folder {folder} is no model: it has no config.json": "目录 {folder} 不是模型：没有 config.json",
    "The model folder {folder} has no weights: no *.safetensors and no pytorch_model*.bin": (
        "模型目录 {folder} 没有权重：既没有 *.safetensors 也没有 pytorch_model*.bin"
    ),
    "The model folder {folder} is not complete: its index names {count} files that are not there, as {file}; "
    "fetch them": "模型目录 {folder} 不完整：索引中有 {count} 个文件不存在，例如 {file}；请下载它们",
    "The folder {folder} holds pointers of git-lfs in the place of files, as {file}: run git lfs install and "
    "git lfs pull in it": (
        "目录 {folder} 中是 git-lfs 的指针而不是文件本身，例如 {file}：请在其中运行 git "
        "lfs install 和 git lfs pull"
    ),
    "{path} is not valid JSON: {error}": "{path} 不是有效的 JSON：{error}",
    "{path} holds no JSON object, but a {kind}": "{path} 中不是 JSON 对象，而是 {kind}",
    "The folder {folder} {kind}": "目录 {folder} {kind}",
    "is an adapter: name the folder of its base model, {base}and the adapter in "
    "model.peft_model (xtuner chat: "
    "--adapter)": (
        "是适配器：请指定其基座模型的目录 {base}并把适配器写在 model.peft_model（xtuner chat：--adapter）"
    ),
    "is a pipeline of diffusers, which makes images: name the folder of a language model": (
        f"是 diffusers 的流程，用来生成图像：{_TEXT_MODEL}"
    ),
    "holds weights in their maker's own form: fetch them in the form of transformers, with a config.json": (
        "中的权重是发布者自己的格式：请下载 transformers 格式的权重，其中有 config.json"
    ),
    "holds GGUF files, which are for llama.cpp: name the folder that they were made from": (
        "中是供 llama.cpp 使用的 GGUF 文件：请指定生成它们的模型目录"
    ),
    "holds checkpoints of a run: make a model or an adapter of one with xtuner convert pth_to_hf": (
        "中是训练的检查点：请用 xtuner convert pth_to_hf 把其中一个转成模型或适配器"
    ),
    "The folder {path} is a model of sentence-transformers, which makes vectors of texts and writes none; "
    "{cure}": "目录 {path} 是 sentence-transformers 的模型，只生成文本向量，不能生成文本；{cure}",
    "The weights of {path} are quantised with {method}, which needs {names}: {install}, or "
    "name the folder of "
    "the model in 16 bits": (
        "{path} 的权重是用 {method} 量化的，需要 {names}：{install}，或指定 16 位模型的目录"
    ),
    "The weights of {path} are quantised with {method}, so they cannot be trained "
    "themselves: set model.lora = "
    "dict(type=LoraConfig, ...), or name the folder of the model in 16 bits": (
        "{path} 的权重是用 {method} 量化的，不能直接训练：请设 model.lora = dict(type=LoraConfig, ...)，"
        "或指定 16 位模型的目录"
    ),
    "The weights of {path} are quantised with {method} already: remove "
    "model.llm.quantization_config (new-cfg: "
    "--method lora)": (
        "{path} 的权重已用 {method} 量化：请删除 model.llm.quantization_config（new-cfg：--method lora）"
    ),
    "{path}/config.json names no model_type, so no one knows what it is; {cure}": (
        "{path}/config.json 没有 model_type，无法得知是什么模型；{cure}"
    ),
    "{path} is a model of the family '{family}', which {reason}": (
        "{path} 是 '{family}' 系列的模型，它{reason}"
    ),
    "{path} is a model of the family '{family}', which {why_not}; {cure}": (
        "{path} 是 '{family}' 系列的模型，它{why_not}；{cure}"
    ),
    **{
        f"{reason}; name the folder of a language model": f"{chinese}；{_TEXT_MODEL}"
        for reason, chinese in _REASONS.items()
    },
    **{
        "is several models in one folder: save the one that writes text with "
        f"{name}.from_pretrained(FOLDER).save_pretrained(OUT), copy the tokenizer's files to OUT, "
        f"and name OUT": (
            f"一个目录里有多个模型：请用 {name}.from_pretrained(FOLDER).save_pretrain"
            f"ed(OUT) 保存生成文本的那个，"
            "把 tokenizer 的文件复制到 OUT，再指定 OUT"
        )
        for name in (
            "Qwen2_5OmniThinkerForConditionalGeneration",
            "Qwen3OmniMoeThinkerForConditionalGeneration",
        )
    },
    "reads a whole text before it writes another (encoder-decoder)": (
        "先读完一段文本再写另一段（编码器-解码器）"
    ),
    "reads a text from both sides and does not write on (encoder)": "双向读取文本，不能续写（编码器）",
    "has no head that writes text": "没有生成文本的输出头",
    "was saved as {saved}, without the head that writes text": "保存为 {saved}，没有生成文本的输出头",
    "was saved as {saved}, whose head does not write text": "保存为 {saved}，其输出头不生成文本",
    "transformers {installed} does not know the family '{family}' of {path}, and the folder "
    "brings no code of "
    "its own: a newer transformers may know it ({install})": (
        "transformers {installed} 不认识 {path} 的 '{family}' 系列，目录也没有自带代码："
        "更新的 transformers 可能认识它（{install}）"
    ),
    "transformers does not know the family {family!r} of {path}, which brings code of its own: {names}. Read "
    "it, and if you trust it, set trust_remote_code=True in model.llm (xtuner chat: --trust-remote-code)": (
        "transformers 不认识 {path} 的 {family!r} 系列，但目录自带代码：{names}。请阅读这些代码，"
        "信任时在 model.llm 中设 trust_remote_code=True（xtuner chat：--trust-remote-code）"
    ),
    "The code that {path} brings for its family '{family}' has no {causal} in auto_map of config.json, so it "
    "does not write text; {cure}": (
        "{path} 为 '{family}' 系列自带的代码在 config.json 的 auto_map 中没有 {causal}，不能生成文本；{cure}"
    ),
}

CHECK = {**REPORT, **CONFIG, **PATHS, **FOLDERS}
