"""Two models side by side, and votes."""

COMPARE = {
    # help
    "two models side by side, and votes on them": "并排比较两个模型，可投票",
    "Two models on the same rows: a page with both answers and what differs, scores if the rows have "
    "answers, and votes.": (
        "两个模型回答同样的数据：网页并排显示回答和差异，数据有参考答案时给出得分，还可投票。"
    ),
    "a model, an adapter, or a file that xtuner predict wrote": "模型、适配器，或 xtuner predict 写出的文件",
    "the one to compare it with": "与之比较的另一个",
    "the model of adapters (the one that they name)": "适配器的基座模型（默认取适配器中所写的）",
    "folder of the results (./work_dirs/compare_<A>_<B>)": "结果目录（./work_dirs/compare_<A>_<B>）",
    "serve the page, with buttons to vote which answer is better": "打开网页服务，可投票选出更好的回答",
    "with --vote: the page shows neither names nor scores": "与 --vote 同用：网页不显示名称和得分",
    "the port to listen at, 0: any that is free (8502)": "监听的端口，0 表示任意空闲端口（8502）",
    # mistakes
    "--blind is for votes: add --vote": "--blind 用于投票：请加 --vote",
    "{model} is a model: name the rows that it is to answer, as the third argument": (
        "{model} 是模型：请用第三个参数指定要它回答的数据"
    ),
    "{a} and {b} are files of answers: leave {data} out": "{a} 和 {b} 是回答文件：请去掉 {data}",
    "row {name} of {a} and of {b} asks something else: compare answers to the same rows": (
        "{a} 与 {b} 的第 {name} 行问题不同：请比较同一份数据的回答"
    ),
    "{path} line {number}: this is no answer of xtuner predict (id, messages, prediction)": (
        "{path} 第 {number} 行：不是 xtuner predict 的回答（id、messages、prediction）"
    ),
    "{path} is no file of JSON lines: {error}": "{path} 不是 JSON lines 文件：{error}",
    "{a} and {b} have no row that both answer": "{a} 与 {b} 没有两边都回答的行",
    "the file of votes": "投票文件",
    # log
    "the answers of %s are there already: %s": "%s 的回答已有：%s",
    "%s answers": "%s 正在回答",
    "whoever reaches %s can vote": "能访问 %s 的人都可以投票",
    "Open http://%s:%d in a browser (Ctrl-C ends it)": "请在浏览器中打开 http://%s:%d（Ctrl-C 结束）",
    # results
    "{count:,} rows are in one of the files alone, not compared": (
        "{count:,} 行只在其中一个文件里：不参与比较"
    ),
    "{count:,} rows were not answered by both: they are not compared": (
        "{count:,} 行没有两边的回答：不参与比较"
    ),
    "{count:,} rows: {same:,} answers are the same": "共 {count:,} 行：{same:,} 个回答相同",
    "{metric}: {a:.4f} for {name_a}, {b:.4f} for {name_b}; better in {wins_a:,} and {wins_b:,} rows, "
    "equal in {ties:,}": (
        "{metric}：{name_a} 为 {a:.4f}，{name_b} 为 {b:.4f}；"
        "分别在 {wins_a:,} 行和 {wins_b:,} 行更好，{ties:,} 行相同"
    ),
    "{count:,} votes are on other answers: they do not count": "{count:,} 票投给了别的回答：不计入",
    "{count:,} votes: {a:,} for {name_a}, {b:,} for {name_b}, {ties:,} ties": (
        "共 {count:,} 票：{name_a} {a:,} 票，{name_b} {b:,} 票，平局 {ties:,} 票"
    ),
    "win rate of {name}: {rate:.3f} (95 % interval {low:.3f} to {high:.3f}; a tie is half a win)": (
        "{name} 的胜率：{rate:.3f}（95 % 区间 {low:.3f} 至 {high:.3f}；平局算半胜）"
    ),
    # page
    "answer 1": "回答 1",
    "answer 2": "回答 2",
    "tie": "平局",
    "next": "下一个",
    "previous": "上一个",
    "{count:,} of {total:,} pairs have a vote": "已投 {count:,} / {total:,} 对",
    "two models": "两个模型",
    "all rows": "所有行",
    "answers that differ": "不同的回答",
    "without a vote": "尚未投票",
    "{name} is better by {metric}": "{name} 的 {metric} 更好",
    "{name} is better": "{name} 更好",
    "equal": "相同",
    "as in the file": "文件顺序",
    "largest difference first": "差异大的在前",
    "show": "显示",
    "order": "排序",
    "only in {name}": "只在 {name} 中",
    "reference answer": "参考答案",
    "difference {percent:.0f} %": "差异 {percent:.0f} %",
    "vote: {name}": "投票：{name}",
}
