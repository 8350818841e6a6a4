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
    "{count:,} answers are neither yes nor no and count as yes unless they deny: see {file}": (
        "{count:,} 个回答既不是 yes 也不是 no，没有否定的计为 yes：见 {file}"
    ),
    "{count:,} answers were cut at the length of --max-new-tokens or of the context": (
        "{count:,} 个回答在 --max-new-tokens 或上下文的长度处被截断"
    ),
    "The data has no right answers: {file} is what the server of the benchmark takes": (
        "数据没有标准答案：请把 {file} 提交给评测服务器"
    ),
    "{count:,} questions have no right answer and are not scored": "{count:,} 道题没有标准答案，不计分",
}
