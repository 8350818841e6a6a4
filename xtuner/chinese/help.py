"""The help of all commands."""

from __future__ import annotations

HELP = {
    # xtuner --help
    "xtuner COMMAND --help explains a command; xtuner version prints the version.": (
        "xtuner COMMAND --help 说明一条命令；xtuner version 显示版本。"
    ),
    "--debug shows the traceback of an error.": "--debug 显示错误的完整调用栈。",
    "--lang zh or LANG=zh_CN.UTF-8 shows help and messages in Chinese.": (
        "--lang en 或 zh 选择帮助和消息的语言，不写则由 LANG 决定。"
    ),
    "Start here": "从这里开始",
    "Configs": "配置",
    "Data": "数据",
    "Training": "训练",
    "Conversion": "转换",
    "Use": "使用",
    "make a small model and take it through everything, in minutes": "几分钟内造一个小模型，走完全部流程",
    "list the built-in configs": "列出内置配置",
    "write a built-in config to edit": "复制一份内置配置，以便修改",
    "write a config for your model and data": "为你的模型和数据写一份配置",
    "find what is wrong, and what memory and time it needs": "找出配置的错误，估计显存和时间",
    "show and check each stage of the data": "逐步展示并检查数据",
    "show an item as the model reads it": "按模型读到的样子展示一条数据",
    "list the data formats with a map function": "列出有映射函数的数据格式",
    "a table to conversations": "把表格转成对话",
    "rows to train.jsonl and test.jsonl": "把数据分成 train.jsonl 和 test.jsonl",
    "arXiv's metadata to a data set": "把 arXiv 的元数据转成数据集",
    "RefCOCO's annotations to train.json": "把 RefCOCO 的标注转成 train.json",
    "tokenise ahead of training": "在训练之前先分词",
    "fine-tune as a config says": "按配置微调",
    "the same with N processes": "同上，用 N 个进程",
    "loss and perplexity on data not trained on": "未参与训练的数据上的 loss 和困惑度",
    "a checkpoint to an adapter or model folder": "把检查点转成适配器或模型目录",
    "an adapter into its model": "把适配器合并进模型",
    "Write a sharded checkpoint (or DeepSpeed's folder) as one file, or with --sharded back.": (
        "把分片检查点（或 DeepSpeed 的目录）写成一个文件；用 --sharded 则反过来。"
    ),
    "write a sharded checkpoint, a folder (one file)": "写成分片检查点，即一个目录（默认写成一个文件）",
    "what to write, with a name such as iter_N.pth": "要写出的检查点，名称如 iter_N.pth",
    "a sharded checkpoint to one file, or back": "把分片检查点转成一个文件，或反过来",
    "a model into the smallest shards": "把模型拆成最小的分片",
    "a file for llama.cpp": "生成 llama.cpp 用的文件",
    "a Modelfile for Ollama": "生成 Ollama 用的 Modelfile",
    "talk to a model in the terminal": "在终端里与模型对话",
    "serve it to OpenAI's clients": "以 OpenAI 接口提供服务",
    "talk to it, watch a training, in a browser": "在浏览器里对话、查看训练",
    # argparse
    "usage: ": "用法: ",
    "positional arguments": "位置参数",
    "options": "选项",
    "optional arguments": "选项",
    "show this help message and exit": "显示本帮助并退出",
    # demo
    "Make a small model, fine-tune it, convert, merge and talk to it; no network needed.": (
        "造一个小模型，微调、转换、合并，再与它对话；不需要网络。"
    ),
    "folder to write (work_dirs/demo)": "输出目录（work_dirs/demo）",
    "the name that the model learns (小芯)": "教给模型的名字（小芯）",
    "teach it to be polite instead, by DPO on pairs of answers": "改为用成对的回答做 DPO，教它礼貌",
    "teach it to see instead: a LLaVA in two stages": "改为教它看图：分两个阶段训练 LLaVA",
    "seed of the fine-tuning and of the answers (0)": "微调和回答的随机种子（0）",
    "language of the explanations (that of the terminal)": "说明文字的语言（默认随终端）",
    # configs
    "`xtuner list-cfg`: the names of the built-in configs.": "`xtuner list-cfg`：列出内置配置的名称。",
    "a part of the name or a glob, in any case; several must all match": (
        "名称的一部分或通配符，不分大小写；给出多个时须全部匹配"
    ),
    "also family, method, data and expected GPU memory, in columns": (
        "同时分列显示模型系列、方法、数据和预计显存"
    ),
    "names with model, method, data and memory, as JSON": "以 JSON 输出名称、模型、方法、数据和显存",
    "`xtuner copy-cfg`: write a built-in config to a folder, to be edited.": (
        "`xtuner copy-cfg`：把一份内置配置复制到目录里，以便修改。"
    ),
    "a name that `xtuner list-cfg` shows": "`xtuner list-cfg` 列出的名称",
    "folder for NAME_copy.py": "存放 NAME_copy.py 的目录",
    "folder of the model, or its name on the hub": "模型目录，或 hub 上的名称",
    "your data file, in the format that this config reads": "你的数据文件，格式与该配置一致",
    "name of the prompt template": "对话模板的名称",
    "any variable of part 1, such as max_epochs=1": "第 1 部分的任意变量，例如 max_epochs=1",
    "language of the comments": "注释的语言",
    "overwrite a file with other content": "覆盖内容不同的已有文件",
    "also measure what the model knew before and what it loses": "同时测量模型原有的知识以及训练中的遗忘",
    "`xtuner new-cfg`: a config for your own model folder and data file, ready to train.": (
        "`xtuner new-cfg`：为你自己的模型目录和数据文件写一份可以直接训练的配置。"
    ),
    "folder of the model": "模型目录",
    "file of rows: .json, .jsonl, .csv, .xlsx, ...": "数据文件：.json、.jsonl、.csv、.xlsx 等",
    "name of the prompt template (the one that fits the tokenizer)": (
        "对话模板的名称（默认选与 tokenizer 相符的）"
    ),
    "my_config.py": "输出文件（my_config.py）",
    "run Python files that the tokenizer brings along": "运行 tokenizer 自带的 Python 文件",
    "`xtuner check`: errors of a config, and the memory and time of its run, in half a second.": (
        "`xtuner check`：半秒内找出配置可能有的全部错误，并估计训练所需的资源。"
    ),
    "a config file, or the name of a built-in one (xtuner list-cfg)": (
        "配置文件，或内置配置的名称（xtuner list-cfg）"
    ),
    "settings to replace: a name of the file (lr=1e-4) or a path (train_dataloader.num_workers=4)": (
        "要替换的设置：文件中的变量名（lr=1e-4）或路径（train_dataloader.num_workers=4）"
    ),
    "also train two updates on the batch with the most tokens, and measure their memory": (
        "还在 token 最多的批次上训练两次更新，并测量其内存"
    ),
    "Print what helps in a bug report; no keys and no data.": "输出对报告问题有用的信息；不含密钥和数据。",
    "print what helps in a bug report: versions, hardware, settings": (
        "输出对报告问题有用的信息：版本、硬件、设置"
    ),
    "print JSON instead, for scripts": "改为输出 JSON，供脚本使用",
    "plan a run by N processes, one for each GPU": "按 N 个进程规划训练，每张 GPU 一个",
    "of them on a machine (8)": "其中每台机器上的进程数（8）",
    # data
    "Show rows of the data from stage to stage, count what becomes of all, and warn of faults. Ends with 1 "
    "where training would refuse the data.": (
        "逐步展示几条数据，统计全部数据的处理结果，并对问题给出警告。训练会拒绝这些数据时，退出码为 1。"
    ),
    "the item to show, counted from 0 (0)": "要展示的样本，从 0 开始计数（0）",
    "warn above this share of cut rows (5)": "被截断数据的百分比超过此值时警告（5）",
    "end with 1 where a row cannot be read": "有数据无法读取时，退出码为 1",
    "also write a page for the browser": "同时写一个可在浏览器中查看的页面",
    "language of the labels": "标签的语言",
    "rows to show, spread evenly over the data (2)": "展示的条数，在数据中均匀选取（2）",
    "Show an item as the model reads it, and count what the data is.": (
        "按模型读到的样子展示一条样本，并统计数据。"
    ),
    "the text, only what is learnt, the ids, the labels, or all of it (text)": (
        "显示文本、仅学习的部分、token id、标签，或全部（text）"
    ),
    "`xtuner list-dataset-format`: the data formats that have a map function.": (
        "`xtuner list-dataset-format`：列出有映射函数的数据格式。"
    ),
    "Write the rows of a table as conversations to train on.": "把表格的每一行写成用于训练的对话。",
    "an .xlsx, .csv or .tsv file; its first line names the columns": (
        ".xlsx、.csv 或 .tsv 文件，第一行是列名"
    ),
    "the file to write: .jsonl, or .json for one list": "输出文件：.jsonl，或写成一个列表的 .json",
    "the column of questions": "问题所在的列",
    "the column of answers": "回答所在的列",
    "a column, or else a text for every row": "一列的列名；不是列名时，作为每行共用的文本",
    "the sheet of a workbook (the first)": "工作簿中的工作表（第一个）",
    "of a .csv or .tsv file, such as gbk (utf-8)": ".csv 或 .tsv 文件的编码，例如 gbk（utf-8）",
    "replace DST if it exists": "DST 已存在时替换它",
    "Split a file of rows at random; the rows keep their order.": "随机拆分数据文件，各行保持原来的顺序。",
    "a .jsonl or .json file": ".jsonl 或 .json 文件",
    "train:test or train:val:test (7:3)": "train:test 或 train:val:test（7:3）",
    "which rows go where (0)": "决定拆分结果的随机种子（0）",
    "folder to write to (that of SRC)": "输出目录（SRC 所在目录）",
    "replace files that exist": "替换已有文件",
    "Take the papers of some categories from arXiv's metadata.": "从 arXiv 的元数据中取出某些类别的论文。",
    "the metadata, arxiv-metadata-oai-snapshot.json": "元数据文件 arxiv-metadata-oai-snapshot.json",
    "the file to write: .json for one list, or .jsonl": "输出文件：写成一个列表的 .json，或 .jsonl",
    "of the papers (cs.AI cs.CL cs.CV)": "论文的类别（cs.AI cs.CL cs.CV）",
    "of the last update (2020-01-01)": "最后更新不早于此日期（2020-01-01）",
    "replace DST_FILE if it exists": "DST_FILE 已存在时替换它",
    "Join the annotations of RefCOCO, RefCOCO+ and RefCOCOg into train.json.": (
        "把 RefCOCO、RefCOCO+ 和 RefCOCOg 的标注合并成 train.json。"
    ),
    "folder with refcoco, refcoco+ and refcocog (data/refcoco_annotations)": (
        "包含 refcoco、refcoco+ 和 refcocog 的目录（data/refcoco_annotations）"
    ),
    "folder of COCO's images (data/llava_data/llava_images/coco/train2017)": (
        "COCO 图像的目录（data/llava_data/llava_images/coco/train2017）"
    ),
    "folder for train.json (.)": "存放 train.json 的目录（.）",
    "replace train.json if it exists": "train.json 已存在时替换它",
    "Tokenise the data of a config, so that its training starts at once.": (
        "先把配置中的数据分词，训练即可立刻开始。"
    ),
    # training
    "Fine-tune a model as a config says.": "按配置微调一个模型。",
    "folder of checkpoints and logs (./work_dirs/<config name>)": (
        "检查点和日志的目录（./work_dirs/<配置名>）"
    ),
    "train by ZeRO: deepspeed_zero1, zero2, zero3, zero2_offload, zero3_offload, or a JSON file": (
        "用 ZeRO 训练：deepspeed_zero1、zero2、zero3、zero2_offload、zero3_offload，或一个 JSON 文件"
    ),
    "go on from this checkpoint, or from the newest one of the work dir": (
        "从该检查点继续训练；不写则从工作目录中最新的检查点继续"
    ),
    "seed of every random choice (random)": "随机种子（默认随机）",
    "what has started this process, where it is one of several": "多进程训练时，由什么启动了本进程",
    "divide weights, gradients and optimiser state among processes": "把权重、梯度和优化器状态分到各进程",
    "Train with several processes; further arguments are those of train.": (
        "用多个进程训练；其余参数与 train 相同。"
    ),
    "processes on this machine, one for each GPU": "本机的进程数，每张 GPU 一个",
    "Loss and perplexity on test_dataloader, or else on val_dataloader.": (
        "在 test_dataloader 上计算 loss 和困惑度；没有时用 val_dataloader。"
    ),
    "iter_300.pth (a file or DeepSpeed's folder), an adapter folder or a model folder (none: the model as "
    "training would start from it)": (
        "iter_300.pth（文件或 DeepSpeed 的目录）、适配器目录或模型目录（不写：训练开始时的模型）"
    ),
    # conversion
    "Write a checkpoint as a folder for peft or transformers.": (
        "把检查点写成 peft 或 transformers 可读的目录。"
    ),
    "the config of the run: a file, or the name of a built-in one": "训练所用的配置：文件，或内置配置的名称",
    "the checkpoint (iter_N.pth, epoch_N.pth)": "检查点（iter_N.pth、epoch_N.pth）",
    "the folder to write": "输出目录",
    "keep 32 bits (16, of the run's own kind)": "保留 32 位（默认 16 位，类型与训练时相同）",
    "the largest file of weights (2GB)": "单个权重文件的大小上限（2GB）",
    "safetensors files; with --no-safe-serialization .bin files": (
        "写 safetensors 文件；用 --no-safe-serialization 则写 .bin 文件"
    ),
    "of LLaVA and InternVL: the trained parts (xtuner), or a whole model for the package llava or "
    "InternVL's own code (official), or for transformers (huggingface)": (
        "LLaVA 和 InternVL 的格式：训练过的部分（xtuner），或供 llava 包、InternVL 自己的代码（official）、"
        "transformers（huggingface）使用的完整模型"
    ),
    "Merge an adapter into its model.": "把适配器合并进它的模型。",
    "the base model: a folder or a name on the hub": "基座模型：目录，或 hub 上的名称",
    "the adapter: a folder or a name on the hub": "适配器：目录，或 hub 上的名称",
    "the base is a CLIP vision model": "基座是 CLIP 视觉模型",
    "where to compute (auto: a GPU if there is one)": "在哪里计算（auto：有 GPU 时用 GPU）",
    "do not compare the merged model with base + adapter": "不对比合并后的模型与基座加适配器的结果",
    "Write a model in the smallest shards.": "把模型写成最小的分片。",
    "the model folder to split": "要拆分的模型目录",
    "Write a model of Llama's form as a GGUF file.": "把 Llama 结构的模型写成 GGUF 文件。",
    "the model: a folder or a name on the hub; merge adapters first": (
        "模型：目录，或 hub 上的名称；适配器须先合并"
    ),
    "the file to write, NAME.gguf, or a folder for it": "输出文件 NAME.gguf，或存放它的目录",
    "f16, q8_0, or by llama.cpp's code q6_k, q5_k_m, q5_k_s, q4_k_m, q4_k_s, q3_k_m (f16)": (
        "f16、q8_0，或用 llama.cpp 的代码写 q6_k、q5_k_m、q5_k_s、q4_k_m、q4_k_s、q3_k_m（默认 f16）"
    ),
    "do not compare the logits of the file": "不对比所写文件的 logits",
    "Write a Modelfile with the model's prompt template.": "写一个带有模型对话模板的 Modelfile。",
    "the model: a folder or a name on the hub": "模型：目录，或 hub 上的名称",
    "the folder to write the Modelfile to": "存放 Modelfile 的目录",
    "the file of weights, by xtuner convert gguf (the model's folder)": (
        "xtuner convert gguf 生成的权重文件（默认用模型目录）"
    ),
    "form of the prompt (the one that the model was trained with)": "对话模板（默认用训练时的模板）",
    "the system text": "系统提示词",
    # use
    "Talk to a model in the terminal.": "在终端里与模型对话。",
    "the LoRA adapter to put on the model": "加在模型上的 LoRA 适配器",
    "the folder with what makes a LLaVA of the model: projector, adapters": (
        "使模型成为 LLaVA 的部件所在目录：projector、适配器"
    ),
    "the CLIP, a folder or a name on the hub, with --llava or a model of the package llava": (
        "CLIP 的目录，或 hub 上的名称，与 --llava 或 llava 软件包的模型合用"
    ),
    "with --llava: the layer of the CLIP that is seen (-2)": "与 --llava 合用：取 CLIP 的哪一层（-2）",
    "the image to talk about, with a vision-language model or --llava; repeatable": (
        "对话所用的图像，须与视觉语言模型或 --llava 合用；可重复"
    ),
    "precision (fp16)": "精度（fp16）",
    "the name of a built-in system text": "内置系统提示词的名称",
    "load the model quantised to so many bits (None)": "以几位量化加载模型（None）",
    "load the model quantised to so many bits": "以几位量化加载模型",
    "what templates with a {bot_name} call the model (BOT)": "含 {bot_name} 的模板对模型的称呼（BOT）",
    "what a model tuned on MOSS's dialogues, or the agent, may use: calculate, solve, search (which needs "
    "SERPER_API_KEY)": (
        "在 MOSS 对话上微调的模型或智能体可用的工具：calculate、solve、search（需要 SERPER_API_KEY）"
    ),
    "show answers at once, not word by word": "回答一次显示完，不逐词输出",
    "answer as an agent that calls tools between its thoughts": "以智能体方式回答，边思考边调用工具",
    "with --lagent: Python files with functions, JSON files that name MCP servers": (
        "与 --lagent 合用：含函数的 Python 文件，或列出 MCP 服务器的 JSON 文件"
    ),
    "texts that end an answer, besides the template's own": "除模板自带的以外，使回答结束的文本",
    "one more text that ends an answer: the end of a command": "又一个使回答结束的文本：命令的结尾",
    "one more text that ends an answer": "又一个使回答结束的文本",
    "run Python files that the model brings along": "运行模型自带的 Python 文件",
    "where layers go that fit neither GPU nor memory": "显存和内存都放不下的层的存放目录",
    "the longest answer, in tokens (2048)": "回答的最大 token 数（2048）",
    "0: always the likeliest token (0.1)": "温度，0 表示总选概率最大的 token（0.1）",
    "choose among so many likeliest tokens, 0: all (40)": "只在概率最大的若干 token 中选，0 表示全部（40）",
    "choose among tokens of this total probability (0.75)": "只在累积概率达到此值的 token 中选（0.75）",
    "above 1: say less twice (1.0)": "大于 1 时减少重复（1.0）",
    "the same seed gives the same answers (0)": "种子相同则回答相同（0）",
    "Serve a model and its adapters over OpenAI's HTTP interface.": (
        "以 OpenAI 的 HTTP 接口提供模型及其适配器的服务。"
    ),
    "a LoRA adapter; repeatable": "一个 LoRA 适配器，可重复给出",
    "the reward model that chooses among the best_of answers": "在 best_of 个回答中做选择的奖励模型",
    "what requests call the model (the name of its folder)": "请求中模型的名称（其目录名）",
    "the address to listen at (127.0.0.1: this machine only)": "监听的地址（127.0.0.1：仅限本机）",
    "the port to listen at, 0: any that is free (8000)": "监听的端口，0 表示任一空闲端口（8000）",
    "the port to listen at, 0: any that is free (8501)": "监听的端口，0 表示任一空闲端口（8501）",
    "the key that requests must bring (XTUNER_API_KEY, where it is set)": (
        "请求必须带有的密钥（设有 XTUNER_API_KEY 时用它）"
    ),
    "the key of the server (XTUNER_API_KEY, where it is set)": "服务器的密钥（设有 XTUNER_API_KEY 时用它）",
    "run the code that the model's folder brings": "运行模型目录自带的代码",
    "form of the prompt (the one that each model was trained with)": "对话模板（默认用各模型训练时的模板）",
    "the longest answer where a request says none (2048)": "请求未指定时回答的最大 token 数（2048）",
    "answers that are written at a time (32)": "同时生成的回答数（32）",
    "requests that may wait; more are refused (256)": "可排队的请求数，超出则拒绝（256）",
    "the largest request (8388608)": "请求的最大字节数（8388608）",
    "a folder of images that requests may name, and nothing else": "请求可以指名其中图像的目录，仅限该目录",
    "fetch images that requests name, from public addresses": "从公网地址获取请求所指名的图像",
    "web pages whose scripts may use the server: http://host:port, commas between, * for all (none)": (
        "允许其脚本访问服务器的网页：http://host:port，以逗号分隔，* 表示全部（无）"
    ),
    "seconds for one request, its waiting included (600)": "单个请求的时限（秒），含排队时间（600）",
    "seconds that answers have to end at the end (30)": "停止服务时留给回答结束的时间（秒）（30）",
    "Talk to a model and watch a training in a browser.": "在浏览器里与模型对话、查看训练。",
    "a model (folder, hub name), or the URL of a server; none: only watch": (
        "模型（目录或 hub 上的名称），或服务器的 URL；不写则只查看训练"
    ),
    "the training to watch (the newest in ./work_dirs)": "要查看的训练（./work_dirs 中最新的）",
}

# What argparse says of a wrong command line, as patterns.
MISTAKES = {
    r"^the following arguments are required: ": "缺少参数：",
    r"^unrecognized arguments: ": "无法识别的参数：",
    r"^argument ([^:]+): ": r"参数 \1：",
    r"expected one argument$": "需要一个值",
    r"expected at least one argument$": "至少需要一个值",
    r"not allowed with argument (.+)$": r"不能与 \1 合用",
    r"invalid choice: (.+) \(choose from (.+)\)$": r"\1 不在可选值之内（可选：\2）",
    r"invalid (\w+) value: (.+)$": r"\2 不是有效的 \1",
    r"^ambiguous option: (.+) could match (.+)$": r"\1 有歧义，可能是 \2",
}
