"""Scores of texts, and the best of several answers."""

SCORING = {
    "Score each row of a file with a reward model or a classifier.": (
        "用奖励模型或分类模型给文件的每一行打分。"
    ),
    "scores of a reward model or classifier": "用奖励模型或分类模型打分",
    "the rows: a file, a folder or a name on the hub, in any format that training reads": (
        "数据：文件、目录，或 hub 上的名称，训练能读的格式均可"
    ),
    "the file to write (scores.jsonl)": "要写的文件（scores.jsonl）",
    "texts that are read at a time (8)": "一次读入多少条文本（8）",
    "tokens of a text that are read (as many as the model reads)": (
        "每条文本读入多少 token（默认取模型的上限）"
    ),
    "precision (auto)": "精度（auto）",
    "--{flag} is {value}: write 1 or more": "--{flag} 为 {value}：请写 1 或更大的数",
    "The results are in {out}": "结果在 {out}",
    "scoring": "打分",
    "%s: %d rows are scored already, the run continues after them": "%s：已有 %d 行打过分，从其后继续",
    "%s existed: replaced": "%s 已存在：已替换",
    "{data} has no row that can be scored": "{data} 没有可打分的行",
    "{rows:,} rows scored": "已打分 {rows:,} 行",
    "{pairs:,} pairs: accuracy {accuracy:.4f}, mean margin {margin:.4f}": (
        "{pairs:,} 对：准确率 {accuracy:.4f}，平均差值 {margin:.4f}"
    ),
    "scores: mean {mean:.4f}, from {lowest:.4f} to {highest:.4f}": (
        "得分：平均 {mean:.4f}，从 {lowest:.4f} 到 {highest:.4f}"
    ),
    "{count:,} rows were cut at the length that the model reads": "{count:,} 行超出模型可读的长度，已截断",
    "{count:,} rows could not be read: {errors}": "{count:,} 行无法读取：{errors}",
    "dialogues are longer than the {length} tokens that the reward model reads: what they say "
    "beyond is not scored": "对话超出奖励模型可读的 {length} 个 token：超出的部分不参与打分",
    "{path} is a classifier of {count} labels, not a reward model, which gives one number": (
        "{path} 是有 {count} 个标签的分类模型，不是给出单个数值的奖励模型"
    ),
    "answer so often and show the answer that --reward scores highest": (
        "生成这么多个回答，显示 --reward 打分最高的一个"
    ),
    "with --best-of: the reward model, a folder or a name on the hub": (
        "与 --best-of 合用：奖励模型的目录，或 hub 上的名称"
    ),
    "the row has no conversation": "该行没有对话",
    "the text is empty: there is nothing to score": "文本为空：没有可打分的内容",
    "the tokenizer of the model has no chat template, so only rows with a 'text' can be scored: "
    "put chat_template.jinja into its folder": (
        "模型的 tokenizer 没有对话模板，因此只能给带 'text' 的行打分：请把 chat_template.jinja 放进其目录"
    ),
    "Load the model that scores from {path}": "从 {path} 加载打分的模型",
    "The adapter {adapter} is of the kind {kind}, not SEQ_CLS: it gives no scores; name that of "
    "a reward model or a classifier": (
        "适配器 {adapter} 的类型为 {kind}，不是 SEQ_CLS：它不给出得分；请指定奖励模型或分类模型的适配器"
    ),
    "{path} is a {kind}, which gives no scores: name a model for sequence classification, such as a "
    "reward model that xtuner convert pth_to_hf wrote (its adapter: --adapter)": (
        "{path} 是 {kind}，不给出得分：请指定序列分类模型，例如 xtuner convert pth_to_hf 写出的奖励模型"
        "（其适配器：--adapter）"
    ),
}
