"""What conversion says, in Chinese, by the English."""

CONVERT: dict[str, str] = {
    "the mean of several checkpoints": "多个检查点的平均",
    "Write the mean of several checkpoints of a run, or of adapter or model folders.": (
        "写出一次训练的多个检查点的平均，或多个适配器、模型目录的平均。"
    ),
    "a work dir, or the checkpoints (iter_N.pth) or folders themselves": (
        "工作目录，或者直接给出检查点（iter_N.pth）或目录"
    ),
    "what to write: NAME.pth for checkpoints, a folder for folders": (
        "输出：检查点写成 NAME.pth，目录写成目录"
    ),
    "the newest N checkpoints of the work dir (all)": "工作目录中最新的 N 个检查点（默认全部）",
    "a weight for each source, the oldest first; divided by their sum (all alike)": (
        "每个来源的权重，最旧的在前；会除以总和（默认相同）"
    ),
    "of adapter folders: an adapter whose product B @ A is the mean of theirs; ranks add up": (
        "适配器目录：写出乘积 B @ A 恰为它们的平均的适配器；秩相加"
    ),
    "{text!r} is no list such as 0.5,0.3,0.2": "{text!r} 不是 0.5,0.3,0.2 这样的列表",
    "there is no {path!r}{near}": "没有 {path!r}{near}",
    "All done! {path} is the mean of {count}.": "完成！{path} 是 {count} 个的平均。",
    "--weights has {given} numbers, and there are {count} sources: give one for each": (
        "--weights 有 {given} 个数，而来源有 {count} 个：请为每个给出一个"
    ),
    "--weights has {value}: write numbers above 0, such as 0.5,0.3,0.2": (
        "--weights 中有 {value}：请写大于 0 的数，如 0.5,0.3,0.2"
    ),
    "{path}: {name} holds values that are no finite numbers; leave this checkpoint out": (
        "{path}：{name} 含有非有限的数；请去掉这个检查点"
    ),
    "{name} is {dtype} and differs between {path} and {other}: such numbers have no mean. Average weights "
    "that are not quantised, or adapters": (
        "{name} 是 {dtype}，在 {path} 和 {other} 中不同：这样的数没有平均。请平均未量化的权重或适配器"
    ),
    "{name} is {mine} in {path} and {other} in {there}: they are not of one model": (
        "{name} 在 {path} 中是 {mine}，在 {there} 中是 {other}：它们不属于同一个模型"
    ),
    "{path} has no {name}, which {other} has: they are not of one model": (
        "{path} 没有 {name}，而 {other} 有：它们不属于同一个模型"
    ),
    "--exact is for adapter folders, and {path} is a checkpoint: make a folder of each with "
    "xtuner convert pth_to_hf first": (
        "--exact 用于适配器目录，而 {path} 是检查点：请先用 xtuner convert pth_to_hf 把每个转成目录"
    ),
    "{folder} holds {count} checkpoints; there must be {wanted}": (
        "{folder} 中有 {count} 个检查点；需要 {wanted} 个"
    ),
    "there is no work dir {folder!r}": "没有工作目录 {folder!r}",
    "--last is for a work dir; the sources that are named are all taken": (
        "--last 用于工作目录；直接给出的来源会全部使用"
    ),
    "{path} is one model: name at least two, or a work dir with checkpoints": (
        "{path} 是一个模型：请至少给出两个，或给出有检查点的工作目录"
    ),
    "checkpoints (.pth) and folders cannot be averaged together: make folders of the checkpoints": (
        "检查点（.pth）和目录不能一起平均：请先把检查点转成目录"
    ),
    "Averaging": "平均",
    "the source": "来源",
    "adapters and whole models cannot be averaged together": "适配器和完整模型不能一起平均",
    "--exact is for adapters; the mean of whole models is exact": (
        "--exact 用于适配器；完整模型的平均本来就是精确的"
    ),
    "A and B of the adapters are averaged separately: their product is not the mean of the products "
    "B @ A. Of adapter folders --exact writes one whose product is, of the ranks' sum": (
        "适配器的 A 和 B 分别平均：其乘积不是各乘积 B @ A 的平均。"
        "对适配器目录，--exact 会写出乘积恰为平均的适配器，秩为各秩之和"
    ),
    "{name} is {mine} in {path} and {theirs} in {other}: A and B then have no mean{cure}": (
        "{name} 在 {path} 中是 {mine}，在 {other} 中是 {theirs}：它们的 A 和 B 没有平均{cure}"
    ),
    "; --exact joins them": "；--exact 可以把它们拼接起来",
    "{path} has {key}: no adapter is the exact mean of such; merge each into its base and average "
    "the models": ("{path} 使用 {key}：这类适配器没有精确的平均；请把每个合并进基座，再平均这些模型"),
    "{path}: {name} has rank {has}, not {rank} as in adapter_config.json: it is damaged": (
        "{path}：{name} 的秩是 {has}，不是 adapter_config.json 中的 {rank}：适配器已损坏"
    ),
}
