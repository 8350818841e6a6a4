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
    "rows are {format}: {why}": "数据格式为 {format}：{why}",
    "three times in the {count} iterations, at most every 500": "在 {count} 次迭代中保存三次，间隔最多 500",
    "an image of the rows is there": "数据中的一张图像在该目录里",
    "the names of images need no folder": "图像的名称不需要目录",
    "{share:.0%} of the rows have at most {covered} tokens, the longest {longest}": (
        "{share:.0%} 的行不超过 {covered} 个 token，最长 {longest}"
    ),
    "short rows share one": "短的行合用一个序列",
    "the model has no more positions": "模型没有更多位置",
    "{path}: no row has room for an answer in the {length} positions of the model, as the shortest "
    "prompt has {tokens} tokens: shorten tools and texts, or take another model": (
        "{path}：在模型的 {length} 个位置中，没有一行容得下回答，最短的提示有 {tokens} 个 token：请缩短"
        "工具和文本，或换用其他模型"
    ),
    "{cut} of {count} measured are cut": "测量的 {count} 行中有 {cut} 行被截断",
    "{cut} of {count} measured are cut, {untrained} of them before their first answer": (
        "测量的 {count} 行中有 {cut} 行被截断，其中 {untrained} 行截断在第一个回答之前"
    ),
    "the longest pair fits, and short ones share an item": "放得下最长的一对，短的合用一条",
    "once over pairs, which are soon learnt by heart": "成对的回答只过一遍，它们很快会被背下来",
    "three times over few pairs": "成对的回答不多，过三遍",
    "once over texts": "文本过一遍",
    "three times over conversations": "对话过三遍",
    "as --method says": "按 --method 指定",
    "its weights are quantised already, with {method}": "权重已经过 {method} 量化",
    "bitsandbytes has no layers in 4 bits on {device}": "bitsandbytes 在 {device} 上没有 4 比特的层",
    "the model's size is not known, and this needs the least memory": "模型大小未知，这种方法所需内存最少",
    "it fits in 16 bits: about {need}, {free} are free on {machine}": (
        "16 比特放得下：约需 {need}，{machine} 上可用 {free}"
    ),
    "it does not fit in 16 bits: about {need}, {free} are free on {machine}": (
        "16 比特放不下：约需 {need}，{machine} 上可用 {free}"
    ),
    "ten times that of DPO on all weights": "是全量 DPO 学习率的十倍",
    "the model's size is not known, and this needs no frozen copy of it": (
        "模型大小未知，这样不需要冻结的副本"
    ),
    "with a frozen copy of the model about {need} are needed": "若保留模型的冻结副本，约需 {need}",
    "with a frozen copy of the model about {need} are needed, which fits, and the log has kl": (
        "保留模型的冻结副本约需 {need}，放得下，日志中会有 kl"
    ),
    "the model's size is not known, and this needs less memory": "模型大小未知，这样所需内存较少",
    "without it about {need} are needed": "不启用则约需 {need}",
    "without it about {need} are needed, which fits, and it is faster": (
        "不启用约需 {need}，放得下，而且更快"
    ),
    "rows are packed, and more at once gain nothing here": "各行会打包，在这里一次多放并无好处",
    "{tokens} tokens at once, {enough} are enough": "一次 {tokens} 个 token，{enough} 个已经足够",
    "about {updates} updates of {tokens} tokens": "约 {updates} 次更新，每次 {tokens} 个 token",
    "about 1 update of {tokens} tokens": "约 1 次更新，{tokens} 个 token",
    "99% of the prompts have at most {covered} tokens, the longest {longest}; longer ones are left out": (
        "99% 的提示不超过 {covered} 个 token，最长 {longest}；更长的不使用"
    ),
    "rows of any form: the last answer is the reference": "任意格式的行：最后一个回答是参考答案",
    "as --reward says": "按 --reward 指定",
    "answers to each prompt, compared with each other": "每个提示采样的回答数，彼此比较",
    "prompts of an update, {updates} in an epoch": "每次更新的提示数，一轮有 {updates} 次更新",
    "{count} answers of up to {tokens} tokens at once; this changes memory, not the result": (
        "一次 {count} 个回答，每个最多 {tokens} 个 token；只影响内存，不影响结果"
    ),
    "validation by greedy answers, to keep the best": "用贪心解码的回答做验证，以保留最好的检查点",
    "{updates} updates of {answers} answers": "{updates} 次更新，每次 {answers} 个回答",
    "every {updates} updates, in iterations": "每 {updates} 次更新，以迭代数计",
    "rows have no answers to measure": "各行没有可测量的回答",
    "twice what 99% of the answers have, {covered} tokens": "99% 的回答不超过 {covered} 个 token，取其两倍",
    "%s holds pairs of answers: --method %s trains on the chosen ones alone, --method dpo on both": (
        "%s 含成对的回答：--method %s 只用 chosen 训练，--method dpo 两者都用"
    ),
    "{form} of answers": "回答数据（{form}）",
    "it writes no tools, which {count} of {rows} rows looked at have: only a tokenizer's own "
    "chat_template does": (
        "它不写入工具，而所看的 {rows} 行中有 {count} 行带有工具：只有 tokenizer 自带的 chat_template 才写入"
    ),
    "rendered with and without tools its text differs, so the tools of {count} of {rows} rows looked "
    "at are written": ("带与不带工具时渲染的文本不同，所以所看的 {rows} 行中 {count} 行的工具会写入"),
    "rendered with and without tools its text is the same, so the tools of {count} of {rows} rows "
    "looked at are left out": (
        "带与不带工具时渲染的文本相同，所以所看的 {rows} 行中 {count} 行的工具不会写入"
    ),
    "the data is empty: there are no rows in {path}": "数据为空：{path} 中没有行",
    "none of the {count:,} rows looked at has anything to train on:{dropped}": (
        "所看的 {count:,} 行中没有可训练的内容：{dropped}"
    ),
    "conversations with images": "带图像的对话",
    "{count} images in the {rows} rows looked at": "所看的 {rows} 行中有 {count} 张图像",
    "{path}: there is no image {name!r} in {first}, in {second} or in the working folder: put the file "
    "beside its images, or name them by absolute paths": (
        "{path}：在 {first}、{second} 和工作目录中都没有图像 {name!r}：请把文件放在图像旁边，或用绝对路径"
    ),
    "{path} is a name on the hub: new-cfg looks into the folder of the model, so fetch it first and "
    "give the folder; for a name, see xtuner list-cfg and xtuner copy-cfg": (
        "{path} 是 hub 上的名称：new-cfg 要查看模型目录，请先下载再给出目录；只有名称时见 xtuner "
        "list-cfg 和 xtuner copy-cfg"
    ),
    "as --template says": "按 --template 指定",
    "the tokenizer brings its own chat_template": "tokenizer 自带 chat_template",
    "that of {name}": "与 {name} 相同",
    "that of the package llava for this family": "llava 包对该系列所用的模板",
    "its marks <|im_start|> and <|im_end|> are tokens of the tokenizer": (
        "它的标记 <|im_start|> 和 <|im_end|> 是 tokenizer 的 token"
    ),
    "its marks are tokens of the tokenizer": "它的标记是 tokenizer 的 token",
    "the tokenizer has no marks of turns, so those of the default are plain words": (
        "tokenizer 没有对话轮次的标记，所以 default 的标记只是普通文字"
    ),
}
