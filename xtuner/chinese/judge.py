"""A model that judges answers: `xtuner eval --judge`, `xtuner compare --judge`."""

JUDGE = {
    # help
    "answers also get a grade of 1 to 10 from the model at this address: http://host:8000/v1": (
        "由此地址的模型为回答另打 1 到 10 分：http://host:8000/v1"
    ),
    "the model at this address says which answer is better, in both orders: http://host:8000/v1": (
        "由此地址的模型按两种先后顺序评判哪个回答更好：http://host:8000/v1"
    ),
    "with --judge: the model that judges (its only one)": "与 --judge 合用：评审模型（默认为唯一的模型）",
    "with --judge: your own prompt, with {question}, {answer}, ...": (
        "与 --judge 合用：自己的提示词，含 {question}、{answer} 等"
    ),
    # mistakes
    "--judge {url} is no address, such as http://host:8000/v1": (
        "--judge {url} 不是地址，应形如 http://host:8000/v1"
    ),
    "--judge-prompt {path}: there is no such file": "--judge-prompt {path}：没有这个文件",
    "--judge-prompt {path}: the prompt has no {slot}": "--judge-prompt {path}：提示词中没有 {slot}",
    "--judge-prompt {path}: the prompt must ask for a last line `{line}`": (
        "--judge-prompt {path}：提示词须要求以一行 `{line}` 结束"
    ),
    "--judge grades answers, and no task is of the kind answers: leave it out": (
        "--judge 为回答评分，而没有 answers 类的任务：请去掉"
    ),
    "--judge-model and --judge-prompt are for --judge URL: add it": (
        "--judge-model 和 --judge-prompt 只用于 --judge URL：请加上它"
    ),
    # log and results
    "judging": "评审",
    "%d of %d verdicts are there already, the judge goes on after them": ("%d/%d 个评审结果已有，从其后继续"),
    "no verdict in its reply": "其回复中没有结论",
    "{count:,} answers have no grade of the judge, left out of its mean: {errors}": (
        "{count:,} 个回答没有得到评分，不计入均值：{errors}"
    ),
    "{count:,} verdicts of {judge}: {a:,} for {name_a}, {b:,} for {name_b}, {ties:,} ties; in {disagree:,} "
    "of these the two orders disagree, in {equal:,} the answers are the same": (
        "{judge} 的 {count:,} 个结论：{name_a} 胜 {a:,}，{name_b} 胜 {b:,}，平局 {ties:,}；其中 "
        "{disagree:,} 个因两种顺序不一致，{equal:,} 个因回答相同"
    ),
    "{count:,} pairs have no verdict, not counted: {errors}": "{count:,} 对没有结论，不计入：{errors}",
    "{url} refuses a temperature of 0: answers there may differ each time": (
        "{url} 不接受为 0 的温度：那里的回答每次可能不同"
    ),
    # pages
    "judge: {verdict}": "评审：{verdict}",
    "no verdict": "没有结论",
    "{a} first, {b} second": "{a} 在前，{b} 在后",
}
