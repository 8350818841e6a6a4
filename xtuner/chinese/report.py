"""Texts of `xtuner report`."""

REPORT: dict[str, str] = {
    "one page about a training: curves, answers, data, config": "一页训练报告：曲线、回答、数据、配置",
    "Write one page about a training: curves, answers, evaluation, data, config, machine.": (
        "把一次训练写成一页报告：曲线、回答、评测、数据、配置、机器。"
    ),
    "the work dir of xtuner train": "xtuner train 的工作目录",
    "the page (WORK_DIR/report.html)": "报告页面（WORK_DIR/report.html）",
    "also what xtuner eval has measured: results.json, or a folder with some": (
        "同时收入 xtuner eval 的结果：results.json，或含有它们的文件夹"
    ),
    "The report is {path}": "报告在 {path}",
    "Report of {name}": "{name} 的报告",
    "there is no training in {folder}: name the work dir of xtuner train": (
        "{folder} 中没有训练记录：请给出 xtuner train 的工作目录"
    ),
    "there is no {path}": "没有 {path}",
    "the data cannot be read now: {error}": "现在无法读取数据：{error}",
    "Curves": "曲线",
    "Sampled answers": "训练中的回答",
    "Evaluation": "评测",
    "Data": "数据",
    "Config": "配置",
    "Warnings": "警告",
    "Environment": "环境",
    "To reproduce": "如何重现",
    "iterations, of all": "迭代次数：已完成 / 共",
    "loss, first and last": "损失：最初与最终",
    "{name}, last": "{name}（最终）",
    "starts": "启动次数",
    "began": "开始",
    "ended": "结束",
    "newest checkpoint": "最新的检查点",
    "speed and memory": "速度与内存",
    "those between": "其间的回答",
    "before training": "训练之前",
    "after {count:,} iterations": "{count:,} 次迭代之后",
    "the whole config": "完整配置",
    "no built-in config is like it": "没有与它相近的内置配置",
    "changed from the nearest built-in config, {name}:": "相对最接近的内置配置 {name} 的改动：",
    "The log has no warnings.": "日志中没有警告。",
    "all that was recorded": "记录的全部内容",
}
