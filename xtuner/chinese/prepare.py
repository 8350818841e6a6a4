"""What preprocessing, the built-in configs and the demo say, in Chinese, by the English."""

from __future__ import annotations

WRITING = {
    "the source {source} is a folder; name a file in it (looked for {place})": (
        "来源 {source} 是目录；请给出其中的文件（找的是 {place}）"
    ),
    "the source {source} does not exist (looked for {place})": "来源 {source} 不存在（找的是 {place}）",
    "{target} is a folder: name a file to write": "{target} 是目录：请给出要写入的文件",
    "{target} is read by this command and cannot be its output: name another file": (
        "{target} 是此命令的输入，不能同时是输出：请给出另一个文件"
    ),
    "{target} exists: pass --force to replace it": "{target} 已存在：要替换请加 --force",
    "{names} cannot be written: {error}": "无法写入 {names}：{error}",
    "left out {count:,}: {reason} ({named})": "略去 {count:,} 条：{reason}（{named}）",
    "{source} line {line}": "{source} 第 {line} 行",
    "not valid JSON": "不是有效的 JSON",
    "not an object": "不是 JSON 对象",
    "reading": "读取",
    "writing": "写入",
    "annotations": "标注",
    "{task.fields[rows]:,} rows, {task.fields[rate]:,.0f} rows/s": (
        "{task.fields[rows]:,} 行，每秒 {task.fields[rate]:,.0f} 行"
    ),
}

TABLES = {
    "{source} is empty: its first line must name the columns": "{source} 为空：第一行应为列名",
    "no column is named %r: it is the system text of every row": (
        "没有名为 %r 的列：把它作为每行的 system 文本"
    ),
    "{source} line {line} names no column {wanted!r}; it names {known}.{hint}": (
        "{source} 第 {line} 行中没有列 {wanted!r}；有 {known}。{hint}"
    ),
    "(none)": "（无）",
    "{source} line {line} names {count} columns {wanted!r}: rename one": (
        "{source} 第 {line} 行有 {count} 列名为 {wanted!r}：请改名"
    ),
    "{source} has no row with both {input_column!r} and {output_column!r}. {left_out}": (
        "{source} 中没有同时含 {input_column!r} 和 {output_column!r} 的行。{left_out}"
    ),
    "more cells than the {count} columns": "单元格多于 {count} 列",
    "{name!r} is empty": "{name!r} 为空",
    "{source} line {start}: broken table: {error}": "{source} 第 {start} 行：表格损坏：{error}",
    "{source}: reading .xlsx needs openpyxl: {command}, or save the sheet as .csv": (
        "{source}：读取 .xlsx 需要 openpyxl：{command}，或把工作表另存为 .csv"
    ),
    "{source} has no sheet {sheet!r}; it has {names}.{hint}": (
        "{source} 中没有工作表 {sheet!r}；有 {names}。{hint}"
    ),
    "%s has the sheets %s: only the first is read; --sheet names another": (
        "%s 有工作表 %s：只读取第一个；用 --sheet 指定另一个"
    ),
    "{source} line {number} byte {byte}: not valid {encoding}. Give its encoding, such as --encoding gbk": (
        "{source} 第 {number} 行第 {byte} 字节：不是有效的 {encoding}。请给出其编码，如 --encoding gbk"
    ),
    "there is no encoding {encoding!r}; try utf-8, gbk or big5": (
        "没有编码 {encoding!r}；可试 utf-8、gbk 或 big5"
    ),
    "{source}: a table is an .xlsx, .csv or .tsv file; save it as one of these": (
        "{source}：表格应为 .xlsx、.csv 或 .tsv 文件；请另存为其中之一"
    ),
}

ROWS = {
    "--ratio is {text!r}: write 7:3 for train and test, or 8:1:1 for train, val, test": (
        "--ratio 为 {text!r}：请写 7:3（train 和 test）或 8:1:1（train、val、test）"
    ),
    "{source}: .json and .jsonl can be split; xtuner preprocess table makes one of a table": (
        "{source}：只能拆分 .json 和 .jsonl；表格可用 xtuner preprocess table 转换"
    ),
    "{source} has {count} rows, too few for {parts} parts": "{source} 有 {count} 行，不足以分成 {parts} 份",
    "--start-date is {text!r}: write year-month-day, such as {usual}": (
        "--start-date 为 {text!r}：请写年-月-日，如 {usual}"
    ),
    "no categories or update_date": "没有 categories 或 update_date",
    "{annotations} has none of the folders {names}": "{annotations} 中没有 {names} 中的任何目录",
    "there is no %s: it is left out": "没有 %s：略去",
    "there is no folder of images {images}: --image-path names COCO's train2017": (
        "没有图像目录 {images}：请用 --image-path 给出 COCO 的 train2017"
    ),
    "there is no {path}": "没有 {path}",
    "{path} is refused: {error}": "不接受 {path}：{error}",
    "it contains {name}, but only plain data is read": "其中有 {name}，而只读取普通数据",
    "{path} is not a COCO annotation: {error!r}": "{path} 不是 COCO 标注：{error!r}",
    "{annotations} has no item for training. {left_out}": "{annotations} 中没有用于训练的条目。{left_out}",
    "{annotations} has no item of the split {split}. {left_out}": (
        "{annotations} 中没有属于 {split} 的条目。{left_out}"
    ),
    "the same image, box and sentences as another": "图像、框和句子与另一条相同",
    "the image is not in {folder}": "图像不在 {folder} 中",
    "no {name!r}": "没有 {name!r}",
}

TOOLS = {
    "All done!": "完成！",
    "All done! {count} files of weights.": "完成！共 {count} 个权重文件。",
    "All done! Train the {count} new layers with model = dict(trained_layers='added', ...).": (
        "完成！请用 model = dict(trained_layers='added', ...) 训练这 {count} 个新层。"
    ),
    "Copy to {path}": "已复制到 {path}",
    "no name matches {names}": "没有名称匹配 {names}",
    "--set takes NAME=VALUE, but got {pair!r}.": "--set 应为 NAME=VALUE，而给出的是 {pair!r}。",
    "Save to {path}\n{count} items\nof {num_read:,} papers": (
        "已写入 {path}\n{count} 条\n论文共 {num_read:,} 篇"
    ),
    "save to {target} with {count} items.": "已写入 {target}，共 {count} 条。",
    "{path}: {count:,} rows": "{path}：{count:,} 行",
    "{count:,} rows outside the first part stand in it too, word for word": (
        "第一部分以外有 {count:,} 行也逐字出现在第一部分中"
    ),
    "Save to {path}\n{count:,} conversations": "已写入 {path}\n{count:,} 段对话",
    "{path} has streaming = True, which tokenises nothing ahead: leave it out for this": (
        "{path} 设有 streaming = True，不会预先分词：此处请去掉它"
    ),
    "  key     {name}\n  folder  {folder} ({size:,.1f} MB)": (
        "  键      {name}\n  目录    {folder}（{size:,.1f} MB）"
    ),
}

RECIPES = {
    "{name} is {value!r}, but must be {kind}, such as {usual}": "{name} 为 {value!r}，应为{kind}，如 {usual}",
    "a number": "一个数",
    "lang is {lang!r}, but comments exist in {names} only.": "lang 为 {lang!r}，但注释只有 {names} 两种。",
    "{name} has no settings to change, but {names} was given.": "{name} 没有可修改的设置，却给出了 {names}。",
}

DEMO = {
    "{what} is {value!r}: write one line of 1 to 40 characters": (
        "{what} 为 {value!r}：请写一行，1 到 40 个字符"
    ),
    "{folder} exists and was not made by `xtuner demo` (it has no {stamp}): choose another "
    "--work-dir or move "
    "it away": (
        "{folder} 已存在，且不是 `xtuner demo` 生成的（没有 {stamp}）：请另选 --work-dir，或把它移走"
    ),
    "`xtuner {command}` failed: {last} (all it printed: {log})": (
        "`xtuner {command}` 失败：{last}（其全部输出：{log}）"
    ),
}

PREPARE = {**WRITING, **TABLES, **ROWS, **TOOLS, **RECIPES, **DEMO}
