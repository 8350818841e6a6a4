"""Texts of `xtuner sweep` and of `xtuner train --find-lr`."""

SWEEP: dict[str, str] = {
    "adapters for all combinations of settings": "为设置的每种组合各训练一个适配器",
    "Train an adapter for each combination of settings, side by side over one loaded model.": (
        "在同一个已加载的模型上，为设置的每种组合并排训练一个适配器。"
    ),
    "values of a setting, as for --cfg-options: lr=1e-4,2e-4 model.lora.r=16,64 seed=1,2": (
        "一项设置的若干取值，写法同 --cfg-options：lr=1e-4,2e-4 model.lora.r=16,64 seed=1,2"
    ),
    "folder of all variants (./work_dirs/<config name>_sweep)": (
        "所有变体的文件夹（./work_dirs/<配置名>_sweep）"
    ),
    "train at most N variants at a time (what fits)": "最多同时训练 N 个变体（默认：内存放得下的个数）",
    "go on with the variants of the work dir that are not finished": "继续训练工作目录中尚未完成的变体",
    "try rising learning rates in about 100 updates, suggest one, and save no checkpoint": (
        "在约 100 次更新中尝试逐渐升高的学习率并给出建议，不保存检查点"
    ),
    "%d variants are finished already": "%d 个变体此前已完成",
    "%d variants over one base, %d at a time": "%d 个变体共用一个基座模型，每次同时训练 %d 个",
    "%s computes its batches by itself: %s": "%s 单独计算自己的批次：%s",
    "%s has failed: %s": "%s 失败：%s",
    "All variants go on from %s": "所有变体从 %s 继续",
    "The variants train one after another: %s": "各变体依次训练：%s",
    "Computed together: {names}; --resume --together N goes on with fewer": (
        "同时计算的变体：{names}；用 --resume --together N 可减少个数并继续"
    ),
    "{kind} loads its model itself": "{kind} 自己加载模型",
    "without model.lora all weights are trained": "没有 model.lora 时训练全部权重",
    "model.lora.bias trains weights of the base": "model.lora.bias 会训练基座的权重",
    "only supervised fine-tuning is mixed": "只有指令微调的批次会合并计算",
    "it trains weights besides LoRA's linear layers": "它还训练 LoRA 线性层之外的权重",
    "models of this family run by themselves": "该系列的模型单独计算",
    "its activations are kept in the memory of the host": "它的激活保存在主机内存中",
    "its adapter is more than plain LoRA on linear layers": "它的适配器不只是线性层上的普通 LoRA",
    "the model has dropout outside of the adapter": "模型在适配器之外还有 dropout",
    "its base is its own": "它的基座不与别的变体共用",
    "NEFTuneHook changes its embeddings": "NEFTuneHook 会改动它的嵌入",
    "{key} is given twice: write all of its values after one {key}=": (
        "{key} 给出了两次：请把所有取值写在同一个 {key}= 之后"
    ),
    "two variants have the name {name}: give each value once": "有两个变体都叫 {name}：每个取值只写一次",
    "{word!r}: write KEY=VALUE,VALUE,...": "{word!r}：请写成 KEY=VALUE,VALUE,...",
    "sweep trains in one process: {cure}": "sweep 只用一个进程训练：{cure}",
    "sweep does not train by DeepSpeed: {cure}": "sweep 不支持 DeepSpeed：{cure}",
    "sweep does not use the Trainer of transformers: {cure}": "sweep 不使用 transformers 的 Trainer：{cure}",
    "sweep trains adapters, and this config trains all weights: {cure}": (
        "sweep 训练适配器，而此配置训练全部权重：{cure}"
    ),
    "train its variants one by one with xtuner train": "请用 xtuner train 逐个训练各变体",
    "variant": "变体",
    "iters": "迭代数",
    "iteration": "迭代",
    "final loss": "最终损失",
    "best val {metric}": "最佳验证 {metric}",
    "{value:.4f} at iter {iter}": "{value:.4f}（第 {iter} 次迭代）",
    "<- best": "<- 最佳",
    "Curves: {page}": "曲线：{page}",
    "lr": "学习率",
    "smoothed": "平滑后",
    "Curve: {path}": "曲线：{path}",
    "no rate is suggested: the loss did not fall by {share:.0%} of its first value": (
        "没有建议的学习率：损失的下降不到初始值的 {share:.0%}"
    ),
    "suggested: lr = {steepest:.1e}, at which the loss falls most steeply (a tenth of the rate with the "
    "least loss is {tenth:.1e})": (
        "建议：lr = {steepest:.1e}，此处损失下降最快（损失最小处学习率的十分之一为 {tenth:.1e}）"
    ),
    "--find-lr tries rates from the start of a run: leave out --resume": (
        "--find-lr 从训练开头尝试学习率：请去掉 --resume"
    ),
    "--find-lr does not use the Trainer of transformers: leave it out": (
        "--find-lr 不使用 transformers 的 Trainer：请去掉它"
    ),
}
