"""The first updates of a run again."""

REPLAY = {
    # help
    "the first updates of a run again: what has changed?": "重新执行训练的最初几次更新，找出变化",
    "Train the first updates of a run again, in a temporary folder, and say what differs, what it follows "
    "from, and by how much. Exit code: 0 equal, 1 different, 2 an error.": (
        "在临时目录中重新执行一次训练的最初几次更新，指出哪里不同、由什么引起、相差多少。"
        "退出码：0 相同，1 不同，2 出错。"
    ),
    "the work dir of the run, one of its starts, or a replay.json": (
        "训练的工作目录、其中某次启动的目录，或 replay.json 文件"
    ),
    "only the first N updates (all that were recorded)": "只执行前 N 次更新（默认为记录的全部）",
    "by how much losses may differ, of gradient norms ten times as much (0.001)": (
        "损失允许的相对误差，梯度范数为其十倍（0.001）"
    ),
    "a config to train with instead of the one recorded": "用此配置代替记录中的配置",
    "also keep the new record, which replay reads too": "同时保存新的记录，replay 也能读取",
    "{text!r} is no number of at least 0": "{text!r} 不是不小于 0 的数",
    # mistakes
    "there is no {name} in {place} or in a folder in it": "{place} 及其下一级目录中没有 {name}",
    "a run writes it unless replay_updates is 0, it is resumed, or the Trainer trains": (
        "训练时会写出此文件，除非 replay_updates 为 0、是恢复的训练，或由 Trainer 训练"
    ),
    "{path} is no record of a run's first updates": "{path} 不是训练最初几次更新的记录",
    "{path} has format {number}, and this version of XTuner reads format {own}": (
        "{path} 的格式为 {number}，此版本的 XTuner 读取格式 {own}"
    ),
    "{path} has no update: the run ended before its first one": "{path} 中没有更新：训练在第一次更新之前结束",
    "{path} cannot be written: {reason}": "无法写入 {path}：{reason}",
    "{name} cannot record the {group}: {reason}": "{name} 无法记录 {group}：{reason}",
    # the table
    "packages": "软件包",
    "hardware": "硬件",
    "environment variables": "环境变量",
    "config": "配置",
    "processes": "进程",
    "kernels and precision": "算子与精度",
    "seed": "随机种子",
    "data files": "数据文件",
    "template": "模板",
    "map functions": "映射函数",
    "tokenizer": "分词器",
    "base model": "基座模型",
    "initial weights": "初始权重",
    "update {number}": "更新 {number}",
    "learning rate": "学习率",
    "rows": "数据行",
    "other tensors": "其他张量",
    "gradient norm": "梯度范数",
    "close": "相近",
    "DIFFERS": "不同",
    "changed": "有变化",
    "not compared": "未比较",
    # details
    "{count} rows": "{count} 行",
    "{count} samples": "{count} 个样本",
    "{count} tensors": "{count} 个张量",
    "{count} of {total} samples, first {row}": "{total} 个样本中的 {count} 个，首个为 {row}",
    "batch {number}": "批次 {number}",
    "batch {batch} of {count}: ": "第 {batch}/{count} 个批次：",
    ", in other batches": "，分批不同",
    ", by up to {size:.2g}": "，最多相差 {size:.2g}",
    ", token {at}: {old} -> {new}": "，第 {at} 个 token：{old} -> {new}",
    "no loss": "无损失",
    "of other rows": "数据行不同",
    "divided among other processes: not compared": "分布在不同数量的进程上：未比较",
    "process {rank}: norm {old} -> {new}": "进程 {rank}：范数 {old} -> {new}",
    "{name}: none before, {new} now": "{name}：原来没有，现为 {new}",
    "{name}: {old} before, none now": "{name}：原为 {old}，现在没有",
    # the verdict
    "learning rate of update {number}, {detail}": "更新 {number} 的学习率，{detail}",
    "rows of update {number}, {detail}": "更新 {number} 的数据行，{detail}",
    "{part} of {row} in update {number}": "更新 {number} 中 {row} 的 {part}",
    "{name} in update {number}": "更新 {number} 中的 {name}",
    "{title} of update {number}, {detail}": "更新 {number} 的{title}，{detail}",
    "the {group} changed ({what})": "{group}有变化（{what}）",
    "nothing else that is recorded changed": "记录的其他内容都没有变化",
    "The first difference: {what}: {cause}": "首个差异：{what}：{cause}",
    "The first difference: {cause}; the updates are equal: {count}": (
        "首个差异：{cause}；更新相同：{count} 次"
    ),
    "What can be compared is equal, but the updates have other rows: {cause}": (
        "可以比较的部分相同，但更新的数据行不同：{cause}"
    ),
    "Equal within the tolerance: {count} updates, though {cause}": (
        "在允许的误差内相同：{count} 次更新，但{cause}"
    ),
    "Equal within the tolerance: {count} updates; all that they depend on is equal": (
        "在允许的误差内相同：{count} 次更新；其依赖的全部内容相同"
    ),
    "Equal: {count} updates and all that they depend on": "相同：{count} 次更新及其依赖的全部内容",
}
