"""Measuring models that read images."""

EVALUATION = {
    # help
    "measure a model that reads images": "评测能读图像的模型",
    "the same on RefCOCO's boxes": "同上，用 RefCOCO 的框",
    "Measure a vision-language model on questions: MMBench, CCBench, MME, POPE, TextVQA, ...": (
        "用图像问答评测视觉语言模型：MMBench、CCBench、MME、POPE、TextVQA 等。"
    ),
    "Measure how many boxes of RefCOCO a vision-language model finds (IoU above 0.5).": (
        "评测视觉语言模型能找到多少 RefCOCO 的框（IoU 大于 0.5）。"
    ),
    "the questions: a file, a folder or a pattern": "题目：文件、目录或通配符",
    "the folder of images that the data names by file": "数据中图像文件所在的目录",
    "folder of the results (./work_dirs/<name of the data>)": "结果目录（./work_dirs/<数据名>）",
    "the longest answer, in tokens (100)": "回答的最大长度，以 token 计（100）",
    "answers that are generated at a time (8)": "同时生成多少个回答（8）",
    "has no effect: an answer is always the likeliest tokens": "无作用：回答总取概率最大的 token",
    "auto (found by the data), mmbench, mme, hallusionbench, pope or textvqa": (
        "auto（由数据判断）、mmbench、mme、hallusionbench、pope 或 textvqa"
    ),
    "the line below each question (that of the benchmark)": "每道题下面的指令（默认用该评测的指令）",
    "the question, with {} for the sentence ([refer] ...)": "提问，{} 处为描述（[refer] ...）",
    "stretch images to a square, for a model that was trained without pad_image_to_square": (
        "把图像拉伸成正方形，用于训练时未设 pad_image_to_square 的模型"
    ),
    "val, test, testA or testB: another split, for eval_refcoco (train)": (
        "val、test、testA 或 testB：另一个划分，供 eval_refcoco 使用（train）"
    ),
    # data
    "{path} has no rows": "{path} 没有数据",
    "{place}: the row has no {name}": "{place}：该行没有 {name}",
    "the row has no {name}": "该行没有 {name}",
    "the row has no options": "该行没有选项",
    "{place}: the index {index} is also that of {other}: each question needs its own": (
        "{place}：序号 {index} 与 {other} 重复：每道题要有自己的序号"
    ),
    "{place}: the image is neither base64 nor the name of a file: {value:.40}": (
        "{place}：图像既不是 base64，也不是文件名：{value:.40}"
    ),
    "{place}: the image is a {kind}, which cannot be read": "{place}：图像的类型是 {kind}，无法读取",
    "the image {name} is damaged or cut off: {error}": "图像 {name} 已损坏或不完整：{error}",
    "the index {index!r} is no number: rotations are found by numbers": (
        "序号 {index!r} 不是数字：选项轮换要由数字序号识别"
    ),
    "the answer of question {index} is {value!r}, but must be yes or no": (
        "题目 {index} 的答案是 {value!r}，必须是 yes 或 no"
    ),
    "question {index} has no set_id, figure_id and question_id": (
        "题目 {index} 没有 set_id、figure_id 和 question_id"
    ),
    "bbox is {value!r}, but must be four numbers": "bbox 为 {value!r}，必须是四个数",
    "the benchmark of {path} is unknown (its columns are {columns}): name it with --benchmark {names}": (
        "无法判断 {path} 是哪个评测（它的列为 {columns}）：请用 --benchmark {names} 指定"
    ),
    "{path} has no column {name}, which {benchmark} needs; its columns are {columns}": (
        "{path} 没有 {benchmark} 所需的列 {name}；它的列为 {columns}"
    ),
    "--image-folder {folder}: there is no such folder": "--image-folder {folder}：没有这个目录",
    # the run
    "questions for code are answered by a model that is loaded here, not by one at an address": (
        "代码题由在本机加载的模型回答，而不是某个地址上的模型"
    ),
    "this model reads no images: name a vision-language model, or add --llava and --visual-encoder to its "
    "language model": "这个模型不能读图像：请指定视觉语言模型，或给语言模型加上 --llava 和 --visual-encoder",
    "answering": "回答",
    "the work dir": "工作目录",
    "%d of %d questions are answered already, the run continues after them": (
        "%d / %d 道题已有回答，从其后继续"
    ),
    "%s: %d questions of %s, %d at a time; processes: %d; answers: %s": (
        "%s：%d 道题，来自 %s，每次 %d 道；进程数：%d；回答：%s"
    ),
    "Prompt template: %s; another one: --prompt-template": "对话模板：%s；可用 --prompt-template 另选",
    # results
    "Overall": "总计",
    "Average": "平均",
    "Category": "类别",
    "Accuracy (%)": "准确率 (%)",
    "Precision (%)": "精确率 (%)",
    "Recall (%)": "召回率 (%)",
    "Yes (%)": "答 yes (%)",
    "Mean IoU": "平均 IoU",
    "Task": "任务",
    "Score": "得分",
    "Split": "划分",
    "Malformed": "格式错误",
    "openpyxl is not installed, so the answers are in %s; for a workbook: %s": (
        "未安装 openpyxl，回答写入 %s；如需 Excel 文件：%s"
    ),
    "{count:,} questions could not be asked and count as wrong: {errors}": (
        "{count:,} 道题无法提问，计为错误：{errors}"
    ),
    "{count:,} answers could not be read and count as wrong: see {file}": (
        "{count:,} 个回答无法识别，计为错误：见 {file}"
    ),
    "{count:,} answers are neither yes nor no, counted as yes where nothing is denied: see {file}": (
        "{count:,} 个回答既不是 yes 也不是 no，没有否定的计为 yes：见 {file}"
    ),
    "{count:,} answers were cut at the length of --max-new-tokens or of the context": (
        "{count:,} 个回答在 --max-new-tokens 或上下文的长度处被截断"
    ),
    "The data has no right answers: {file} is what the server of the benchmark takes": (
        "数据没有标准答案：请把 {file} 提交给评测服务器"
    ),
    "{count:,} questions have no right answer and are not scored": "{count:,} 道题没有标准答案，不计分",
    # questions without images
    "measure it: choices, answers, code": "评测：选择题、问答、代码",
    "Measure a language model: choices by likelihood (MMLU, C-Eval, CMMLU, ARC, HellaSwag, your own), "
    "answers against references, code by its tests (HumanEval, MBPP, your own), perplexity.": (
        "评测语言模型：按似然做选择题（MMLU、C-Eval、CMMLU、ARC、HellaSwag 或自己的题目）、"
        "把回答与参考答案比较、用测试检验代码（HumanEval、MBPP 或自己的题目）、计算困惑度。"
    ),
    "examples before each question (5 for MMLU, C-Eval, CMMLU; else 0)": (
        "每道题前的示例数（MMLU、C-Eval、CMMLU 为 5，其余为 0）"
    ),
    "of answers: exact, contains, numeric, boxed, letter, bleu, rouge1, rouge2, rougeL, or your own "
    "FILE.py:FUNCTION (those that fit the references)": (
        "问答的指标：exact、contains、numeric、boxed、letter、bleu、rouge1、rouge2、rougeL，"
        "或自己的 FILE.py:FUNCTION（默认按参考答案选择）"
    ),
    "only the first N questions of each task": "每个任务只取前 N 道题",
    "folder of the results (./work_dirs/eval_<name of the model>)": "结果目录（./work_dirs/eval_<模型名>）",
    "form of questions that are answered (the one the model was trained with)": (
        "问答题的提示词模板（默认为训练时的模板）"
    ),
    "system text of questions that are answered": "问答题的 system 文本",
    "the longest answer, in tokens (512)": "回答的最大长度，以 token 计（512）",
    "tokens of choices and texts at a time (4096)": "选择题和文本一次计算的 token 数（4096）",
    "its answers to all rows of a file": "模型对文件中每一行的回答",
    "Answer every row of a file: a line of JSON each, with scores if the rows have answers.": (
        "回答文件中的每一行：每行一个 JSON；数据中有答案时附分数。"
    ),
    "the file to write": "要写的文件",
    "only the first N rows": "只取前 N 行",
    "0: always the likeliest token (0)": "0：总取概率最大的 token（0）",
    "the likeliest tokens of that probability together (1)": "只从累计概率达到该值的 token 中采样（1）",
    "seed of answers with a temperature (0)": "采样的随机种子（0）",
    "a choice is longer than the {context} tokens that the model reads": (
        "有一个选项比模型能读的 {context} 个 token 还长"
    ),
    "the tokenizer has neither a start nor an end token, after which a text could begin": (
        "tokenizer 既没有起始 token 也没有结束 token，文本无从开始"
    ),
    "the text is empty": "文本为空",
    "{count:,} questions could not be asked; they count as wrong, and texts not at all: {errors}": (
        "{count:,} 道题无法提问：题目计为错误，文本不计入：{errors}"
    ),
    "{name} needs whole sequences: set sequence_parallel_size = 1, or leave it out": (
        "{name} 需要完整的序列：请设 sequence_parallel_size = 1，或去掉它"
    ),
    "the row asks nothing": "该行没有提问",
    "{path} has no row that asks something": "{path} 没有一行有提问",
    "{count:,} rows answered": "已回答 {count:,} 行",
    "the row has no answer to compare with: a judge (--judge) needs none": (
        "该行没有可比较的答案：评审模型（--judge）不需要答案"
    ),
    "the field 'text' is no text: {value!r:.80}": "字段 'text' 不是文本：{value!r:.80}",
    "{place}: the row has no field {name}": "{place}：该行没有字段 {name}",
    "'choices' is no list of two texts or more: {value!r:.80}": "'choices' 不是至少两项的列表：{value!r:.80}",
    "the answer {answer!r} is none of the {count} choices": "答案 {answer!r} 不在 {count} 个选项之中",
    "answerKey is {key!r}, none of {labels}": "answerKey 为 {key!r}，不在 {labels} 之中",
    "{path} holds no data files": "{path} 中没有数据文件",
    "{path}: no question has a right answer": "{path}：没有一道题有正确答案",
    "%s: %d questions have no right answer and are left out: %s": "%s：%d 道题没有正确答案，不计入：%s",
    "%s: %d questions are there again, as where a folder 'all' has those of others: name one folder": (
        "%s：有 %d 道题重复出现，例如文件夹 all 含有其他文件夹的题目：请只给出一个文件夹"
    ),
    "%s: the first %d of %d questions": "%s：前 %d 道题，共 %d 道",
    "%s: %d questions of the kind %s%s": "%s：%d 道题，类型 %s%s",
    ", {shots} examples before each": "，每题前 {shots} 个示例",
    "--{flag} is {value}: write {least} or more": "--{flag} 为 {value}：请写 {least} 或更大的数",
    "--tasks {given}: {kind!r} is no kind of task.{hint} Kinds: {kinds}": (
        "--tasks {given}：没有任务类型 {kind!r}。{hint} 类型有：{kinds}"
    ),
    "--tasks {kind}: there is no file or folder {kind}: write {kind}=PATH of its questions, or "
    "--harness for the tasks of lm-evaluation-harness": (
        "--tasks {kind}：没有名为 {kind} 的文件或文件夹：请写 {kind}=题目的路径，或用 --harness 取 "
        "lm-evaluation-harness 的任务"
    ),
    "--tasks: two tasks are named {name}: rename a file": "--tasks：两个任务都叫 {name}：请改一个文件名",
    "--shots {shots}: only questions with choices have examples, and {path} is of the kind {kind}": (
        "--shots {shots}：只有选择题有示例，而 {path} 的类型是 {kind}"
    ),
    "--shots {shots}: {path} has no files named dev or train with examples": (
        "--shots {shots}：{path} 没有名为 dev 或 train 的示例文件"
    ),
    "--shots {shots}: {path} has only {count} examples of a subject": (
        "--shots {shots}：{path} 的某个科目只有 {count} 个示例"
    ),
    "--metrics {name}: there is no such metric.{hint} Metrics: {names}, or FILE.py:FUNCTION": (
        "--metrics {name}：没有这个指标。{hint} 指标有：{names}，或 FILE.py:FUNCTION"
    ),
    "%d questions are longer than the model's context of %d tokens: their beginning was cut": (
        "%d 道题超过模型的上下文（%d 个 token）：开头被截去"
    ),
    "task": "任务",
    "questions": "题数",
    "metric": "指标",
    "value": "值",
    "{count:,} questions": "{count:,} 道题",
    "every answer": "所有回答",
    "→ the choice of the model": "→ 模型的选择",
    "right": "正确",
    "perplexity": "困惑度",
    # during training
    "a dict, or a list of dicts": "一个字典，或字典的列表",
    "{name}: {kind} is no metric: it has no method {method}": "{name}：{kind} 不是指标：没有方法 {method}",
    "validation does not measure {name!r}.{hint} It measures {names}": (
        "验证中没有指标 {name!r}。{hint} 验证的指标有 {names}"
    ),
    "MMLUMetric measures the questions of MMLU, and this data has none: copy the dataloaders of "
    "internlm_7b_qlora_oasst1_mmlu_e3, with collate_fn=dict(type=mmlu_collate_fn)": (
        "MMLUMetric 测量 MMLU 的题目，而这些数据里没有：请照抄 internlm_7b_qlora_oasst1_mmlu_e3 的 "
        "dataloader，并用 collate_fn=dict(type=mmlu_collate_fn)"
    ),
    "MMLU has no subject {subject!r}": "MMLU 没有科目 {subject!r}",
    "mmlu_collate_fn: an item has no {name!r}: its rows need it, and the data set neither "
    "pack_to_max_length nor remove_unused_columns": (
        "mmlu_collate_fn：数据项没有 {name!r}：数据行需要该字段，"
        "数据集不能设 pack_to_max_length 或 remove_unused_columns"
    ),
    "Subject": "科目",
    # a model at an address
    "the model: a folder, a name on the hub, or the address of a server: http://host:8000/v1": (
        "模型：目录、hub 上的名称，或服务器地址：http://host:8000/v1"
    ),
    "at an address: the model that is asked (its only one)": "服务器地址：所用的模型（默认为唯一的模型）",
    "at an address: requests at a time, also to a judge (8)": (
        "服务器地址：同时发送的请求数，评审模型亦同（8）"
    ),
    "at an address: what precedes texts of perplexity, if the server adds nothing": (
        "服务器地址：计算困惑度时文本前的 token（服务器不添加时）"
    ),
    "--model-name {name}: only a model at an address, such as http://host:8000/v1, has a name": (
        "--model-name {name}：只用于服务器地址（例如 http://host:8000/v1）上的模型"
    ),
    "{flag} is for a model that is loaded here; the server at {url} decides it for its own": (
        "{flag} 只用于在本机加载的模型；{url} 的服务器自行决定"
    ),
    "a model at an address needs the package openai: {command}": (
        "评测服务器地址上的模型需要安装 openai：{command}"
    ),
    "the address holds a user or a key, which files would show: put the key into {key}": (
        "地址中含有用户名或密钥，会出现在文件里：请把密钥放入 {key}"
    ),
    "the server's reply holds no answer": "服务器的回复中没有回答",
    "the server's reply holds no log-probabilities of the prompt": "服务器的回复中没有提示词的对数概率",
    "the server's reply holds more than the prompt": "服务器的回复中不只有提示词",
    "the server's reply lacks the log-probability of a token": "服务器的回复中缺少某个 token 的对数概率",
    "the server adds no start token to texts, so that the first token of a text has no probability: name the "
    "start or end token of its tokenizer, such as --start-token '<|endoftext|>'": (
        "服务器不在文本前添加起始 token，因此文本的第一个 token 没有概率：请给出其 tokenizer 的"
        "起始或结束 token，例如 --start-token '<|endoftext|>'"
    ),
    "--start-token {token}: the server itself begins texts with {first}: leave it out": (
        "--start-token {token}：服务器已在文本前添加 {first}，请去掉此选项"
    ),
    "--start-token {token} is not one token of the server's tokenizer": (
        "--start-token {token} 不是服务器 tokenizer 中的单个 token"
    ),
    "{url}: say which model is asked, by {flag} NAME. Models: {names}": (
        "{url}：请用 {flag} NAME 指定所用的模型。模型：{names}"
    ),
    "the server names none": "服务器没有列出",
    "{flag} {name}: {url} has no such model.{hint} Models: {names}": (
        "{flag} {name}：{url} 没有这个模型。{hint}模型：{names}"
    ),
    "the server refuses the question: {reason}": "服务器拒绝了这道题：{reason}",
    "{url} answers {status}: {reason}": "{url} 返回 {status}：{reason}",
    "; set {key} to a valid key": "；请把 {key} 设为有效的密钥",
    "{url} cannot be reached: {reason}": "无法连接 {url}：{reason}",
    "; what is answered is kept, the same command continues": "；已有的回答已保存，再次运行同一命令即可继续",
    "{url} gives no log-probabilities of prompts (echo and logprobs of /v1/completions), which tasks of "
    "{kinds} need: measure tasks of answers there, or serve the model by xtuner serve or vLLM": (
        "{url} 不提供提示词的对数概率（/v1/completions 的 echo 和 logprobs），而 {kinds} 类任务需要它："
        "请评测 answers 类任务，或用 xtuner serve 或 vLLM 部署模型"
    ),
    # what a model knew before
    "ForgettingHook has nothing to measure: give files or languages": (
        "ForgettingHook 没有可测的内容：请给出 files 或 languages"
    ),
    "ForgettingHook.languages: there are no general texts in {name!r}.{hint} There are {names}": (
        "ForgettingHook.languages：没有语言 {name!r} 的通用文本。{hint} 有：{names}"
    ),
    "ForgettingHook.files: {path} has neither texts nor questions with choices: its rows need "
    "the field text, or question, choices and answer": (
        "ForgettingHook.files：{path} 既没有文本也没有选择题：数据行需要字段 text，"
        "或 question、choices 和 answer"
    ),
    "ForgettingHook.files: {path} is the second that is named {name}: rename a file": (
        "ForgettingHook.files：{path} 是第二个名为 {name} 的文件：请改一个文件名"
    ),
    "ForgettingHook.stop_at_perplexity_ratio is {ratio}: write a number above 1, such as 1.1": (
        "ForgettingHook.stop_at_perplexity_ratio 为 {ratio}：请写一个大于 1 的数，如 1.1"
    ),
    "ForgettingHook needs a model that writes text, and {kind} does not: leave it out": (
        "ForgettingHook 需要会生成文本的模型，而 {kind} 不是：请去掉它"
    ),
    "The general texts or the tokenizer are others than before: forgetting counts from iter %d on": (
        "通用文本或分词器与之前不同：遗忘从第 %d 次迭代算起"
    ),
    "Before training: %s": "训练前：%s",
    "%s is %.4f times what it was before training, more than stop_at_perplexity_ratio = %s": (
        "%s 是训练前的 %.4f 倍，超过 stop_at_perplexity_ratio = %s"
    ),
    "What this run changed (± standard error):": "本次训练带来的变化（± 标准误差）：",
    "before": "之前",
    "best": "最佳",
    "after": "之后",
    "difference": "变化",
    "lost": "下降",
    "better": "提高",
    "no clear change": "无明显变化",
    "To lose less, cheapest first: general data in the training, {line}; lr below {rate}; a smaller lora r": (
        "减少遗忘，代价小的在前：训练中加入通用数据，{line}；lr 低于 {rate}；lora 的 r 更小"
    ),
    "To lose less, cheapest first: general data in the training, {line}; lr below {rate}; LoRA": (
        "减少遗忘，代价小的在前：训练中加入通用数据，{line}；lr 低于 {rate}；改用 LoRA"
    ),
    "An earlier checkpoint has lost less: {path}, {name} {value:.4f}": (
        "较早的检查点遗忘更少：{path}，{name} {value:.4f}"
    ),
    "No earlier checkpoint has lost less: save_best = {name!r} keeps the best": (
        "没有遗忘更少的较早检查点：save_best = {name!r} 会保留最好的"
    ),
    # a table of checkpoints
    "a work dir, or several checkpoints: a table of all of them, and of the model before training": (
        "工作目录，或多个检查点：列出所有检查点以及训练前的模型"
    ),
    "folder of the log and the result (./work_dirs/<config name>; of a table WORK_DIR/measured)": (
        "日志和结果的目录（./work_dirs/<配置名>；表格的目录为 工作目录/measured）"
    ),
    "in the table: also the questions of xtuner eval": "表格中还包括 xtuner eval 的题目",
    "of answers (those that fit the references)": "回答的指标（默认按参考答案选择）",
    "--{flag} is for --checkpoints; xtuner eval asks a model in a folder": (
        "--{flag} 用于 --checkpoints；目录中的模型用 xtuner eval"
    ),
    "{name} could not be measured: {fault}": "{name} 无法测量：{fault}",
    "* the best of its column. The table is in {file}": "* 该列最佳。表格在 {file}",
    "By {name} no checkpoint is better than the model before training": (
        "按 {name}，没有检查点优于训练前的模型"
    ),
    "Best by {name}: {best}. Next:": "按 {name} 最佳：{best}。下一步：",
    "checkpoint": "检查点",
    "the folder of results": "结果目录",
    "Checkpoint %d of %d: %s%s": "第 %d 个检查点，共 %d 个：%s%s",
    ", {time} left": "，剩余 {time}",
    "there is no checkpoint in {folder}": "{folder} 中没有检查点",
    "{path} is not a checkpoint of a run: --checkpoint measures a folder of a model": (
        "{path} 不是训练的检查点：模型目录用 --checkpoint 测量"
    ),
    "two checkpoints are named {name}: rename one": "两个检查点都叫 {name}：请改名其中一个",
    "%s is measured already": "%s 已经测过",
    "%s is left out: %s": "略过 %s：%s",
    "--tasks needs the whole model in each process: start one process, or leave out fsdp": (
        "--tasks 需要每个进程都有完整的模型：请用一个进程，或去掉 fsdp"
    ),
    "--tasks is for models that write text, and {kind} trains none": (
        "--tasks 用于生成文本的模型，而 {kind} 训练的不是"
    ),
    "--tasks needs the tokenizer, and the config sets no tokenizer": (
        "--tasks 需要分词器，而配置没有 tokenizer"
    ),
}
