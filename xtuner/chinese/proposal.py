"""Texts of `xtuner new-cfg`."""

PROPOSAL: dict[str, str] = {
    "model    {path}: family {family}, {context} positions": (
        "模型     {path}：{family} 系列，{context} 个位置"
    ),
    "model    {path}: family {family}, as {name}, {context} positions": (
        "模型     {path}：{family} 系列，同 {name}，{context} 个位置"
    ),
    "data     {path}: {rows} rows, about {tokens:.0f} tokens": (
        "数据     {path}：{rows} 行，约 {tokens:.0f} 个 token"
    ),
    "memory   unknown: the family's config.json does not have the usual sizes": (
        "内存     未知：该系列的 config.json 没有通常的尺寸"
    ),
    "memory   about {need} ({free} free on {machine})": "内存     约 {need}（{machine} 上可用 {free}）",
    "memory   about {need} ({free} free on {machine}); this will not fit": (
        "内存     约 {need}（{machine} 上可用 {free}）；放不下"
    ),
    "--out is {given!r}; a config is a Python file: name it {name}.py": (
        "--out 为 {given!r}；配置是 Python 文件：请命名为 {name}.py"
    ),
    "Wrote {path}. Next: {command}": "已写入 {path}。下一步：{command}",
}
