"""Files, hubs and rows of data."""

READING = {
    "loading {name!r} from ModelScope needs the package modelscope ({error}): {command}, or give the "
    "rows as a file with dataset = dict(type=load_dataset, path='data.json')": (
        "从 ModelScope 加载 {name!r} 需要 modelscope 软件包（{error}）：{command}，或用 dataset = "
        "dict(type=load_dataset, path='data.json') 以文件给出数据"
    ),
    "{name}: damaged or cut off: {reason}": "{name}：已损坏或不完整：{reason}",
    "{name}: .zst needs the package zstandard: {command}": "{name}：.zst 需要 zstandard 软件包：{command}",
    "downloading %s": "正在下载 %s",
    "{address} cannot be downloaded: {reason}": "{address} 无法下载：{reason}",
    "{address} cannot be reached: the copy of an earlier run is used ({reason})": (
        "连不上 {address}：改用先前下载的副本（{reason}）"
    ),
    "{address} is a web page, not a data file: give the address of the file itself": (
        "{address} 是网页，不是数据文件：请给出文件本身的地址"
    ),
    "{address} needs {cure}": "{address} 需要 {cure}",
    "{address}: the protocol {protocol!r} is not known; download the file and give its path": (
        "{address}：不认识协议 {protocol!r}；请下载文件并写出它的路径"
    ),
    "{name} changed during the run, from {old:,} to {new:,} bytes: restore it and continue with "
    "--resume, or start a new run": (
        "{name} 在训练期间改变了，从 {old:,} 字节变为 {new:,} 字节：请恢复它并用 --resume 继续，或重新训练"
    ),
    "{name} was written to during the run; its size is the same as before": (
        "{name} 在训练期间被写过；大小没有变"
    ),
    "{name} changed while it was read: start again": "{name} 在读取期间改变了：请重新开始",
    "{place}: a row must be an object such as {{...}}; this is {value:.60}": (
        "{place}：一行应为 {{...}} 这样的对象，而这里是 {value:.60}"
    ),
    "the rows of {name} are those under {key!r}{left_out}": "{name} 的数据行是 {key!r} 之下的那些{left_out}",
    "{name} line {line}: broken JSON: {rule}, but here is {found}": (
        "{name} 第 {line} 行：JSON 有误：{rule}，这里却是 {found}"
    ),
    "{name} line {line} column {column}: broken JSON: {msg}": (
        "{name} 第 {line} 行第 {column} 列：JSON 有误：{msg}"
    ),
    "{name} line {line}: the JSON is nested too deeply": "{name} 第 {line} 行：JSON 嵌套过深",
    "{name} line {line}: a number has more than {digits:,} digits, which Python does not read": (
        "{name} 第 {line} 行：有一个数超过 {digits:,} 位，Python 无法读取"
    ),
    "{path} does not end like a data file ({endings}, ...): give the address of the file itself, or "
    "download it and give its path": (
        "{path} 的结尾不像数据文件（{endings} 等）：请给出文件本身的地址，或下载后写出它的路径"
    ),
    "{path}: not a folder of save_to_disk, or a damaged one: {error}": (
        "{path}：不是 save_to_disk 的目录，或已损坏：{error}"
    ),
    "there is no split {split!r}; the files have {names}": "没有 split {split!r}；文件中有 {names}",
    "{name} is a pointer of git-lfs, not the data: git lfs pull downloads it": (
        "{name} 是 git-lfs 的指针，不是数据本身：用 git lfs pull 下载"
    ),
    "files of different kinds ({kinds}) cannot be read together: {path}, ...": (
        "不同类型的文件（{kinds}）不能一起读取：{path} 等"
    ),
    "{path}: data files may be {endings}; for others give the format by name, such as "
    "load_dataset(path='json', data_files='{name}')": (
        "{path}：数据文件可以是 {endings}；其他文件请写出格式名，例如 load_dataset(path='json', "
        "data_files='{name}')"
    ),
    "there is no data set {path!r}, neither here nor on the hub: {error}": (
        "本机和 hub 上都没有数据集 {path!r}：{error}"
    ),
    "{path!r} cannot be read: {error}": "无法读取 {path!r}：{error}",
    "the data has no split {split!r}; it has {names}.{hint}": (
        "数据没有 split {split!r}；它有 {names}。{hint}"
    ),
    "rows must be a list, a data set or a dict of splits, not {kind}; for a file write dataset = "
    "dict(type=load_dataset, path='data.json')": (
        "数据应为列表、数据集或按 split 组成的 dict，而不是 {kind}；文件请写 dataset = "
        "dict(type=load_dataset, path='data.json')"
    ),
    "{kind} gives its rows only in sequence, so a run cannot be resumed: leave streaming=True out of "
    "load_dataset, and set it in process_hf_dataset": (
        "{kind} 只能逐条给出数据，中断后无法继续训练：请从 load_dataset 中去掉 streaming=True，改在 "
        "process_hf_dataset 中设定"
    ),
    "none of {count} rows can be held out for validation: they are all the same": (
        "{count} 条数据都相同，无法留出一部分用于验证"
    ),
    "{name}: not a Parquet file, or a damaged one: {error}": "{name}：不是 Parquet 文件，或已损坏：{error}",
    "{name} line {line}: broken CSV: {error}": "{name} 第 {line} 行：CSV 有误：{error}",
    "cells of {name} are separated by {separator!r}": "{name} 的单元格以 {separator!r} 分隔",
    "{name}: reading .xlsx needs openpyxl: {command}, or save the sheet as .csv": (
        "{name}：读取 .xlsx 需要 openpyxl：{command}，或把工作表另存为 .csv"
    ),
    "{name}: not a workbook, or a damaged one: {error}": "{name}：不是工作簿，或已损坏：{error}",
    "{place}: not valid UTF-8. Convert the file, from {encoding}: {command}": (
        "{place}：不是有效的 UTF-8。请从 {encoding} 转换文件：{command}"
    ),
    "{place}: not valid UTF-8. Convert the file, for example from {encoding}: {command}": (
        "{place}：不是有效的 UTF-8。请转换文件，例如从 {encoding}：{command}"
    ),
    " byte {byte}": "，字节 {byte}",
    "{name} line {line}": "{name} 第 {line} 行",
    "{name} row {line}": "{name} 第 {line} 条",
    ", row {number}": "，第 {number} 条",
    "row {number}": "数据行 {number}",
    " (counted from 0)": "（从 0 计）",
    "{name} line {line}: {cells} cells, but {names} names in line 1": (
        "{name} 第 {line} 行：有 {cells} 个单元格，而第 1 行有 {names} 个列名"
    ),
    "a comma or ] must follow a row": "一条数据之后应为逗号或 ]",
    "nothing may follow the list of rows": "数据列表之后不应有内容",
    "the end of the file": "文件结尾",
    "; those under {names} are left out": "；略去 {names} 之下的",
    "the package {package}: {command}": "{package} 软件包：{command}",
    "a copy of the data": "数据的副本",
    "there is no data set {path!r} on this machine, and the hub cannot be reached: give the path of a file, "
    "such as data.json, or fetch it where there is a network": (
        "本机没有数据集 {path!r}，也连不上 hub：请给出文件路径，例如 data.json，或在有网络的地方下载"
    ),
    "the file ends within a frame": "文件在一帧中间结束",
    "the connection ended {left:,} bytes before the end of the file": "连接在距文件结尾 {left:,} 字节处中断",
}
