"""What a run logs. `%` slots keep their order; lines of numbers (`Iter(train) ...`) are the same."""

from __future__ import annotations

RUN = {
    "Seed: %d%s": "随机种子：%d%s",
    ", deterministic": "，确定性计算",
    "Checkpoints will be saved to %s.": "检查点将保存到 %s。",
    "CPU with {count} threads": "CPU，{count} 个线程",
    "Trained weights: {trained:,} of {total:,} ({share:.2%})": (
        "训练的参数：{trained:,}，共 {total:,}（{share:.2%}）"
    ),
    "Num train samples %d": "训练样本数 %d",
    "Num train samples: not known, the data is streamed": "训练样本数：未知，数据是流式读取的",
    "train example:\n%s": "训练样本示例：\n%s",
    "Sample output:\n%s\n": "模型的回答：\n%s\n",
    "No sample for %r: %s: %s": "%r 没有得到回答：%s: %s",
    "EvaluateChatHook: {kind} writes no text, so there are no samples: remove the hook": (
        "EvaluateChatHook：{kind} 不生成文本，因此没有回答可抽查：请删除此钩子"
    ),
    "No more samples: the run is asked to stop": "不再抽查回答：训练被要求停止",
    "Validation is broken off: the run is asked to stop": "验证中断：训练被要求停止",
    "mfu counts the operations that training needs, hfu also recomputed ones, as shares of %.3g TFLOP/s%s": (
        "mfu 计入训练所需的运算，hfu 还计入重计算，均为占 %.3g TFLOP/s 的比例%s"
    ),
    ", measured here": "，在本机测得",
    "Compiling %d layers in the first iterations, which takes its time": (
        "前几次迭代将编译 %d 层，需要一些时间"
    ),
    "compile: %d of %d layers are recomputed in backward, which torch does not compile; "
    "model.use_activation_checkpointing = False keeps all as they are": (
        "compile：%d 层（共 %d 层）在反向时重计算，torch 不会编译它们；"
        "设 model.use_activation_checkpointing = False 则不重计算"
    ),
    "%s, the update is skipped (%d so far). %s": "%s，跳过本次更新（至今 %d 次）。%s",
    "The 16-bit loss scale was too high and is lowered; this update is left out.": (
        "16 位的 loss 缩放过大，已调低；跳过本次更新。"
    ),
    "%s: stopping with a checkpoint; again to stop now": "%s：保存检查点后停止；再按一次立即停止",
    "Stopped in iter %d; %s": "在第 %d 次迭代停止；%s",
    "--resume goes on from {last}": "用 --resume 可从 {last} 继续",
    "no checkpoint was written yet": "还没有写出检查点",
    "The visualizer could not be closed: %s: %s": "可视化后端无法关闭：%s: %s",
    "%s cannot be written: %s; the run goes on without it": "无法写入 %s：%s；训练继续，但不再写它",
    "load_from = %r is an adapter: it is taken as model.peft_model": (
        "load_from = %r 是适配器，按 model.peft_model 处理"
    ),
    "Next: xtuner chat %s": "下一步：xtuner chat %s",
    "Done. Next:\n  {convert}": "训练完成。下一步：\n  {convert}",
    "Done. Next:\n  {convert}\n  {chat}": "训练完成。下一步：\n  {convert}\n  {chat}",
    "{text!r} is no whole number of at least 0": "{text!r} 不是不小于 0 的整数",
    "--deepspeed {name} needs the package deepspeed: {command}": (
        "--deepspeed {name} 需要 deepspeed 软件包：{command}"
    ),
    "--deepspeed {name}: there is no such file": "--deepspeed {name}：没有这个文件",
    "--deepspeed {name}: {path} is no JSON: {error}": "--deepspeed {name}：{path} 不是 JSON：{error}",
    "--deepspeed {name}: {path} holds no settings, but {kind}": (
        "--deepspeed {name}：{path} 中不是设置，而是 {kind}"
    ),
    "use a smaller model": "换一个更小的模型",
    "{peak} had been in use{more}": "已用过 {peak}{more}",
    " when {asked} more were refused": "，再申请 {asked} 时被拒绝",
    "out of memory: {used}. Lower train_dataloader.batch_size or max_length, or train with LoRA": (
        "内存不足：{used}。请减小 train_dataloader.batch_size 或 max_length，或用 LoRA 训练"
    ),
    "out of memory: {used}; the run was estimated to need {total} (most of it: {largest}). What helps, "
    "cheapest first: {helps}": (
        "内存不足：{used}；估计训练需要 {total}（其中最多的：{largest}）。可行的办法，代价小的在前：{helps}"
    ),
}

CHECKPOINTS = {
    "iterations": "次迭代",
    "epochs": "轮",
    "Saving checkpoint at %d iterations": "保存检查点：第 %d 次迭代",
    "Saving checkpoint at %d %s": "保存检查点：第 %d %s",
    "Saving the best checkpoint: %s is %.4f, after %d %s": "保存最佳检查点：%s 为 %.4f，在 %d %s之后",
    "The checkpoint before is still being written: waiting for it": "上一个检查点仍在写入，等待它完成",
    "Removing %s, which an earlier run has not finished": "删除 %s，它是先前的训练没有写完的",
    "Resuming from %s": "从 %s 继续训练",
    "Resumed at iter %d of %d, saved at iter %d%s": (
        "从第 %d 次迭代继续，共 %d 次，检查点保存于第 %d 次迭代%s"
    ),
    ", within an update, which begins again": "，当时一次更新尚未完成，将重新开始该更新",
    "Loaded the weights of %s": "已加载 %s 的权重",
    "%s is there as %s": "%s 在那里名为 %s",
    "%s is damaged: %s; trying the one before it": "%s 已损坏：%s；改用它之前的一个",
    "%s is of an earlier run, and this one begins anew in the same work dir: checkpoints of "
    "the same name are "
    "overwritten (--resume goes on from it)": (
        "%s 属于先前的训练，而本次在同一工作目录从头开始：同名的检查点会被覆盖（用 --resume 可从它继续）"
    ),
    "The config is not the one that %s was saved with:\n%s": "配置与保存 %s 时的不同：\n%s",
    "The run was finished: nothing is left to train. Raise train_cfg to train longer": (
        "训练已经完成，没有剩余的迭代。要继续训练，请增大 train_cfg 中的次数"
    ),
    "%s: the run goes on at the same iteration of these": "%s：训练从这些数据的同一次迭代继续",
    "Saved by %d readers of data, resumed by %d: its iter %d is iter %d here, an update has %.3g times the "
    "items, and dropout draws other numbers": (
        "保存时有 %d 个进程读数据，现在有 %d 个：当时的第 %d 次迭代是这里的第 %d 次，"
        "每次更新的样本数是当时的 %.3g 倍，dropout 的随机数也不同"
    ),
}

TRAIN = {**RUN, **CHECKPOINTS}
