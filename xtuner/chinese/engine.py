"""What is said of a run, its settings, checkpoints and processes. `%` slots keep their order."""

from __future__ import annotations

TRAINER = {
    "train_dataset: the Trainer needs to know its length; leave out streaming = True": (
        "train_dataset：Trainer 需要知道数据的长度；请去掉 streaming = True"
    ),
    "trainer is {kind!r}; it must be Trainer of transformers or a subclass": (
        "trainer 是 {kind!r}；它必须是 transformers 的 Trainer 或其子类"
    ),
    "trainer is {kind}, whose compute_loss would be replaced by the loss of packed samples: remove it": (
        "trainer 是 {kind}，它的 compute_loss 会被打包样本的损失取代：请去掉该方法"
    ),
    "training_args.{name} would replace the loss of packed samples: remove it": (
        "training_args.{name} 会取代打包样本的损失：请去掉"
    ),
    "training_args.remove_unused_columns is not used: samples of a pack need their boundaries": (
        "training_args.remove_unused_columns 不起作用：打包的样本需要它们的边界"
    ),
    "training_args.{name} is not used: layers are recomputed by XTuner itself": (
        "training_args.{name} 不起作用：各层由 XTuner 自己重新计算"
    ),
    "model is {kind}, which the Trainer cannot train: leave framework out": (
        "model 是 {kind}，Trainer 不能训练它：请去掉 framework"
    ),
    "training_args.eval_strategy: the Trainer gets no data for validation; remove it": (
        "training_args.eval_strategy：Trainer 没有验证数据；请去掉"
    ),
    "framework = 'huggingface' does not train by ZeRO-3: use zero2, or leave framework out": (
        "framework = 'huggingface' 不支持 ZeRO-3：请用 zero2，或去掉 framework"
    ),
    "accelerate ignores training_args.fsdp on a CPU: leave it out": (
        "accelerate 在 CPU 上忽略 training_args.fsdp：请去掉"
    ),
    "--fsdp: with framework = 'huggingface' set training_args.fsdp": (
        "--fsdp：framework = 'huggingface' 时请设 training_args.fsdp"
    ),
    "{path} is no checkpoint of the Trainer: it has no {file}": (
        "{path} 不是 Trainer 的检查点：其中没有 {file}"
    ),
}

ENGINE = {
    "optim_wrapper.optimizer is {name} of bitsandbytes, which documents no optimizers on {device}: use "
    "torch.optim.AdamW": (
        "optim_wrapper.optimizer 是 bitsandbytes 的 {name}，其文档中没有 {device} 上的优化器：请用 "
        "torch.optim.AdamW"
    ),
    "optim_wrapper.optimizer has fused=True: on {device} torch's fused optimizers may leave out clipping "
    "and the loss scale, so remove it": (
        "optim_wrapper.optimizer 设了 fused=True：torch 的融合优化器在 {device} 上可能忽略梯度裁剪和损"
        "失缩放，请去掉"
    ),
    "optim_wrapper.dtype is float16, whose loss scale torch {version} computes in fp64, which this "
    "{device} has not: use 'bfloat16'": (
        "optim_wrapper.dtype 是 float16，torch {version} 以 fp64 计算其损失缩放，而此 {device} 没有 "
        "fp64：请用 'bfloat16'"
    ),
    "{count} processes on {device}, which takes one: remove NPROC_PER_NODE and NNODES, or set "
    "XTUNER_DEVICE=cpu": (
        "{device} 上有 {count} 个进程，而它只能有一个：请去掉 NPROC_PER_NODE 和 NNODES，或设 "
        "XTUNER_DEVICE=cpu"
    ),
    "env_cfg.dist_cfg.backend=%r is not for %s: %s is used": (
        "env_cfg.dist_cfg.backend=%r 不用于 %s：改用 %s"
    ),
    "{variable} is {asked!r}, and torch finds {found} here: set it to cpu, or remove it": (
        "{variable} 是 {asked!r}，而 torch 在这里找到的是 {found}：请设为 cpu，或去掉"
    ),
    "The checkpoint does not fit the model": "检查点与模型不匹配",
    "optim_wrapper.optimizer is {name} of bitsandbytes, which cannot work on the shards of fsdp: use "
    "torch.optim.AdamW, whose state fsdp shards too": (
        "optim_wrapper.optimizer 为 bitsandbytes 的 {name}，它不能处理 fsdp 的分片：请用 "
        "torch.optim.AdamW，fsdp 也会切分它的状态"
    ),
    "optim_wrapper.dtype is float16, which fsdp does not scale: use bfloat16": (
        "optim_wrapper.dtype 为 float16，fsdp 不对它做 loss 缩放：请用 bfloat16"
    ),
    "persistent_workers is not used: workers are started for each epoch": (
        "不使用 persistent_workers：每个 epoch 都会重新启动 worker"
    ),
    "worker_init_fn: random seeds that it sets are replaced before each batch, so that a resumed run draws "
    "the same numbers": (
        "worker_init_fn：它设置的随机种子会在每个批次之前被替换，这样恢复的训练会得到相同的随机数"
    ),
    "fsdp needs several processes: this run has one": "fsdp 需要多个进程：本次训练只有一个",
    "cannot write to the work dir {work_dir}: {error}": "无法写入工作目录 {work_dir}：{error}",
    "{path} was saved without optimizer state; start from its weights with load_from": (
        "{path} 保存时没有优化器状态；请用 load_from 从它的权重开始"
    ),
    "{data} reads every item once and in order: its {names} is not used": (
        "{data} 依次读取每个条目一次：不使用它的 {names}"
    ),
    "{data}.dataset: validation data must end; leave out streaming = True": (
        "{data}.dataset：验证数据必须有结尾；请去掉 streaming = True"
    ),
    "{path} is {kind}, which gives every process all items: use DefaultSampler, or a class that takes "
    "rank and world_size": (
        "{path} 为 {kind}，它给每个进程全部条目：请用 DefaultSampler，或接受 rank 和 world_size 的类"
    ),
    "train_dataloader.sampler gives the processes {lengths} batches an epoch; all need the same "
    "number: set round_up=True in it": (
        "train_dataloader.sampler 每轮分给各进程 {lengths} 批；各进程应一样多：请在其中设 round_up=True"
    ),
    "fsdp and deepspeed both shard the model: use one of them": (
        "fsdp 和 deepspeed 都会切分模型：请只用其中一个"
    ),
    "model has no trainable parameter: add lora=dict(type=LoraConfig, ...) or train the llm itself": (
        "model 没有可训练的参数：请加上 lora=dict(type=LoraConfig, ...)，或训练 llm 本身"
    ),
    "optim_wrapper.type is {name}; use AmpOptimWrapper or OptimWrapper": (
        "optim_wrapper.type 为 {name}；请用 AmpOptimWrapper 或 OptimWrapper"
    ),
    "visualizer is a {kind}, which has no {name}(): use Visualizer, and put your own backend in its "
    "vis_backends": (
        "visualizer 为 {kind}，它没有 {name}()：请用 Visualizer，并把自己的后端放入它的 vis_backends"
    ),
    "{what}, so its position in them means nothing: restore them, start from its weights with "
    "load_from, or set resume_on_other_data = True to continue at the same iteration of these": (
        "{what}，因此其中的位置没有意义：请恢复原来的数据，用 load_from 从它的权重开始，或设 "
        "resume_on_other_data = True 从这些数据的同一次迭代继续"
    ),
    "{path} was saved by {count} processes, each with its own position in the streamed data, and "
    "this run has {here}: start as many": (
        "{path} 由 {count} 个进程保存，各有自己在流式数据中的位置，而本次训练有 {here} 个：请启动同样多的进程"
    ),
    "cannot write {path}: {cause}; {kept}": "无法写入 {path}：{cause}；{kept}",
    "{path} is a folder, not a checkpoint; {cure}": "{path} 是目录，不是检查点；{cure}",
    "{path} is damaged: {fault}": "{path} 已损坏：{fault}",
    "{path} is not a checkpoint: it has no 'state_dict'": "{path} 不是检查点：没有 'state_dict'",
    "there is no checkpoint {path!r}; the newest there is {newest}": (
        "没有检查点 {path!r}；那里最新的是 {newest}"
    ),
    "{path} cannot be read: {error}": "无法读取 {path}：{error}",
    "there is no checkpoint in {work_dir!r} to resume from; train without --resume": (
        "{work_dir!r} 中没有可继续的检查点；请不用 --resume 训练"
    ),
    "none of the {count} checkpoints in {work_dir} can be read in full": (
        "{work_dir} 中的 {count} 个检查点没有一个完整可读"
    ),
    "{setting} is {rule!r}; use 'less' or 'greater'": "{setting} 为 {rule!r}；请用 'less' 或 'greater'",
    "{setting} needs validation: give val_dataloader, such as val_dataloader = dict(held_out=0.05)": (
        "{setting} 需要验证：请给出 val_dataloader，例如 val_dataloader = dict(held_out=0.05)"
    ),
    "{setting} is {name!r}, which validation does not measure.{hint} It measures {names}": (
        "{setting} 为 {name!r}，验证中没有这个指标。{hint} 验证的指标有 {names}"
    ),
    "EarlyStoppingHook.patience is {patience}: write 1 or more": (
        "EarlyStoppingHook.patience 为 {patience}：请写 1 或更大的数"
    ),
    "Early stopping: %s is %s": "提前停止：%s 为 %s",
    "Early stopping: %s is %.4f, better than stopping_threshold = %.4f": (
        "提前停止：%s 为 %.4f，优于 stopping_threshold = %.4f"
    ),
    "Early stopping: none of the last %d validations was better than %s %s by more than %s": (
        "提前停止：最近 %d 次验证没有一次比 %s %s 好 %s 以上"
    ),
    "{kind} is not a hook: it has none of the methods {names}": "{kind} 不是钩子：方法 {names} 一个也没有",
    "priority {value!r} of {kind} is unknown.{hint}": "{kind} 的优先级 {value!r} 未知。{hint}",
    "NEFTuneHook.noise_alpha is {noise_alpha!r}; it must be a number above 0": (
        "NEFTuneHook.noise_alpha 为 {noise_alpha!r}，应为大于 0 的数"
    ),
    "NEFTuneHook does not work with sequence parallelism, where no process has whole samples; remove "
    "the hook, or set sequence_parallel_size = 1": (
        "NEFTuneHook 不能与序列并行一起使用，那时没有进程持有完整样本；请删除该钩子，或设 "
        "sequence_parallel_size = 1"
    ),
    "VarlenAttnArgsToMessageHubHook is not needed: packed samples never attend to each other; remove it": (
        "不需要 VarlenAttnArgsToMessageHubHook：打包的样本互不可见；请删除它"
    ),
    "optim_wrapper.accumulative_counts is {accumulative_counts}; it must be at least 1": (
        "optim_wrapper.accumulative_counts 为 {accumulative_counts}，应不小于 1"
    ),
    "optim_wrapper.dtype is {name!r}; use 'float16', 'bfloat16' or 'float32'": (
        "optim_wrapper.dtype 为 {name!r}；请用 'float16'、'bfloat16' 或 'float32'"
    ),
    "optim_wrapper.loss_scale is {loss_scale!r}; use 'dynamic', a number or a dict": (
        "optim_wrapper.loss_scale 为 {loss_scale!r}；请用 'dynamic'、一个数或一个 dict"
    ),
    "optim_wrapper.clip_grad has no key {key!r}; it takes max_norm and norm_type": (
        "optim_wrapper.clip_grad 没有键 {key!r}；它接受 max_norm 和 norm_type"
    ),
    "optim_wrapper.clip_grad.type is {kind!r}; only 'norm' is supported": (
        "optim_wrapper.clip_grad.type 为 {kind!r}；只支持 'norm'"
    ),
    "optim_wrapper.clip_grad.{key} is {value!r}; it must be a number above 0": (
        "optim_wrapper.clip_grad.{key} 为 {value!r}，应为大于 0 的数"
    ),
    "{where} has no key {key!r}.{hint}": "{where} 没有键 {key!r}。{hint}",
    "{where}.custom_keys: no trainable parameter has {key!r} in its name": (
        "{where}.custom_keys：没有名称中含 {key!r} 的可训练参数"
    ),
    "{where}.custom_keys[{key!r}] has no key {factor!r}.{hint}": (
        "{where}.custom_keys[{key!r}] 没有键 {factor!r}。{hint}"
    ),
    "iter {iter}: another process of this run is gone": "第 {iter} 次迭代：本次训练的另一个进程已退出",
    "train_cfg needs either max_epochs or max_iters: max_epochs={max_epochs!r}, max_iters={max_iters!r}": (
        "train_cfg 需要 max_epochs 或 max_iters 中的一个：max_epochs={max_epochs!r}，max_iters={max_iters!r}"
    ),
    "train_cfg.spike_ratio: DeepSpeed cannot skip a finite update; remove spike_ratio, or train "
    "without --deepspeed": (
        "train_cfg.spike_ratio：DeepSpeed 不能跳过有限的更新；请删除 spike_ratio，或不用 --deepspeed 训练"
    ),
    "{what}, the last of {count} skipped updates in a row; the run stops. {rows}. Look at these rows, "
    "lower lr, or use bfloat16; earlier checkpoints are intact": (
        "{what}，已连续跳过 {count} 次更新，训练停止。{rows}。请检查这些数据，减小 lr，或用 bfloat16；先前"
        "的检查点完好"
    ),
    "param_scheduler.{i} is a {kind}; use LinearLR, CosineAnnealingLR or ConstantLR": (
        "param_scheduler.{i} 为 {kind}；请用 LinearLR、CosineAnnealingLR 或 ConstantLR"
    ),
    "the checkpoint was saved with {saved} workers per process reading the stream, and this run has "
    "{here}: set train_dataloader.num_workers as it was": (
        "检查点保存时每个进程有 {saved} 个 worker 读取数据流，而本次训练有 {here} 个：请把 "
        "train_dataloader.num_workers 设回原值"
    ),
    "streaming: rows are shuffled in the buffer of process_hf_dataset; train_dataloader.sampler, "
    "batch_sampler and drop_last are not used": (
        "流式读取：数据在 process_hf_dataset 的缓冲区中打乱；不使用 train_dataloader 的 sampler、"
        "batch_sampler 和 drop_last"
    ),
    "the validation data has no supervised token": "验证数据中没有参与训练的 token",
    "val_dataloader.held_out: train_dataloader.dataset has no data set that can hold rows out; "
    "give val_dataloader a dataset of its own instead": (
        "val_dataloader.held_out：train_dataloader.dataset 中没有可以留出数据的数据集；请给 "
        "val_dataloader 自己的 dataset"
    ),
    "{user} needs the package {package}: {command}": "{user} 需要 {package} 软件包：{command}",
    "The checkpoint does not fit the model: {name} is missing, new, or of another shape": (
        "检查点与模型不匹配：{name} 缺失、多余或形状不同"
    ),
    "optim_wrapper.clip_grad.norm_type: DeepSpeed clips by the 2-norm only; remove it": (
        "optim_wrapper.clip_grad.norm_type：DeepSpeed 只按 2 范数裁剪；请删除它"
    ),
    "The DeepSpeed file has {name} = {given} and the config {value}: that of the config is used": (
        "DeepSpeed 文件中 {name} = {given}，配置中为 {value}：以配置为准"
    ),
    "The DeepSpeed file has {name}.enabled = {given}; optim_wrapper.dtype = {dtype} is used": (
        "DeepSpeed 文件中 {name}.enabled = {given}；以 optim_wrapper.dtype = {dtype} 为准"
    ),
    "DeepSpeed trains in bf16, which this GPU supports, instead of optim_wrapper.dtype = float16": (
        "此 GPU 支持 bf16，DeepSpeed 以 bf16 训练，不用 optim_wrapper.dtype = float16"
    ),
    "NODE_RANK is {node}, but NNODES is {nodes}: it counts from 0 to {last}": (
        "NODE_RANK 为 {node}，而 NNODES 为 {nodes}：它应为 0 到 {last}"
    ),
    "NNODES is {nodes}, but ADDR is not set: give the address of the machine with NODE_RANK=0": (
        "NNODES 为 {nodes}，但没有设 ADDR：请给出 NODE_RANK=0 那台机器的地址"
    ),
    "{name} is {text!r}; it must be a whole number of at least {least}": (
        "{name} 为 {text!r}，应为不小于 {least} 的整数"
    ),
    "sequence_parallel_size is {size}, but the model has {num_heads} attention heads ({num_kv_heads} "
    "for keys): it must be one of {sizes}": (
        "sequence_parallel_size 为 {size}，而模型有 {num_heads} 个注意力头（key 有 {num_kv_heads} 个）：应"
        "为 {sizes} 之一"
    ),
    "rank 0 is lost: {error}": "rank 0 已失去联系：{error}",
    "sequence_parallel_size is {sequence_size}, which does not divide the number of processes, "
    "{processes}: set NPROC_PER_NODE to a multiple of it": (
        "sequence_parallel_size 为 {sequence_size}，不能整除进程数 {processes}：请把 NPROC_PER_NODE 设为它"
        "的倍数"
    ),
    "Waiting for %d processes": "等待 %d 个进程",
    "the processes of this run cannot connect to each other: {error}": (
        "本次训练的各进程无法互相连接：{error}"
    ),
    "env_cfg.dist_cfg.backend=%r needs GPUs: gloo is used instead": (
        "env_cfg.dist_cfg.backend=%r 需要 GPU：改用 gloo"
    ),
    "Measuring %s": "评估 %s",
    "the config has no data to test on: give val_dataloader = dict(held_out=0.05), which holds out "
    "part of the training rows, or test_dataloader = dict(dataset=...)": (
        "配置中没有用于测试的数据：请给出 val_dataloader = dict(held_out=0.05)，即留出一部分训练数据，或 "
        "test_dataloader = dict(dataset=...)"
    ),
    "--launcher pytorch: this process was not started by torchrun or with NPROC_PER_NODE; start it "
    "with NPROC_PER_NODE=N xtuner train ..., or torchrun --nproc-per-node N -m xtuner train ...": (
        "--launcher pytorch：此进程既不是由 torchrun 启动，也没有设 NPROC_PER_NODE；请用 NPROC_PER_NODE=N "
        "xtuner train ... 或 torchrun --nproc-per-node N -m xtuner train ... 启动"
    ),
    "--launcher {launcher}: set ADDR to the name or address of the first machine": (
        "--launcher {launcher}：请把 ADDR 设为第一台机器的名称或地址"
    ),
    "--launcher slurm: this process was not started by srun; write srun xtuner train ...": (
        "--launcher slurm：此进程不是由 srun 启动的；请写 srun xtuner train ..."
    ),
    "--launcher mpi: this process was not started by mpirun; write mpirun -n N xtuner train ...": (
        "--launcher mpi：此进程不是由 mpirun 启动的；请写 mpirun -n N xtuner train ..."
    ),
    "{what} {path} is in use by {who}: wait for its end, or name another": (
        "{what} {path} 正被 {who} 使用：请等它结束，或换一个名称"
    ),
    "cannot write to {what} {path}: {reason}": "无法写入{what} {path}：{reason}",
    "{parent} does not support file locks: whether another process writes there is not checked": (
        "{parent} 不支持文件锁：不检查是否有其他进程写入"
    ),
    "{path} exists with other content: pass --force to overwrite it.": (
        "{path} 已存在且内容不同：加 --force 可覆盖它。"
    ),
    "model.use_activation_checkpointing is {value!r}; write True (all layers), False (none), "
    "'selective' (every second layer), 'offload' (all layers, inputs and embedding on the host), or "
    "None (what fits into memory)": (
        "model.use_activation_checkpointing 为 {value!r}；请写 True（所有层）、False（不用）、'selective'（"
        "每隔一层）、'offload'（所有层，输入和 embedding 放在主机内存）或 None（按内存决定）"
    ),
    "{package} is installed but cannot be loaded, so it is not used: {error}": (
        "{package} 已安装但无法加载，因此不使用：{error}"
    ),
    "use_varlen_attn: packed samples never attend to each other, with it or without": (
        "use_varlen_attn：打包的样本互不可见，与它无关"
    ),
    "Models of the family '{family}' mix packed samples, so each sample runs by itself: slower with "
    "many short samples": ("'{family}' 系列的模型会混淆打包的样本，因此逐个样本计算：短样本多时较慢"),
    "The checkpoint does not fit the model: {wrong} of {total} weights have other shapes, such as "
    "{name}: {there} there, {here} here. Use the base model and the lora settings (r) it was trained "
    "with": (
        "检查点与模型不匹配：{total} 个权重中有 {wrong} 个形状不同，例如 {name}：检查点中为 {there}，在此"
        "为 {here}。请使用训练它时的基座模型和 lora 设置（r）"
    ),
    "model.max_position_embeddings needs model.llm as a dict, because rope is scaled before loading": (
        "model.max_position_embeddings 需要 model.llm 为 dict，因为 rope 在加载前缩放"
    ),
    "model.peft_model = {peft_model!r} is not an adapter folder: to continue from a checkpoint, give "
    "its settings in model.lora too": (
        "model.peft_model = {peft_model!r} 不是适配器目录：要从检查点继续，请同时在 model.lora 中给出它的设置"
    ),
    "the process that prepares the data": "准备数据的进程",
    "the data of the other processes": "其他进程的数据",
    "Waiting for %s, %d s so far": "等待%s，已有 %d 秒",
    "rank {rank} (process {process})": "rank {rank}（进程 {process}）",
    "{rank} was killed by {name}{cause}": "{rank} 被 {name} 终止{cause}",
    ", as the system does when memory runs out": "，内存不足时系统会这样做",
    "{rank} failed with exit code {code}": "{rank} 失败，退出码为 {code}",
    "; the other processes were stopped": "；其他进程已停止",
    "rank {rank}: {who} is lost; this process ends": "rank {rank}：{who} 已失去联系，本进程退出",
    "{path} is a link to {to}, which does not exist": "{path} 是指向 {to} 的链接，而它不存在",
    "{path} is not a folder": "{path} 不是目录",
    "the work dir": "工作目录",
    "the output": "输出",
    "{path} was trained on other data or data settings than this config has": (
        "{path} 训练时的数据或数据设置与此配置不同"
    ),
    "{path} is intact: free some space and continue with --resume": (
        "{path} 完好：请腾出空间，再用 --resume 继续"
    ),
    "there is no earlier one": "没有更早的检查点",
    "ZeRO-3 left weights in parts there: make one file of them with the zero_to_fp32.py beside it": (
        "其中是 ZeRO-3 分片保存的权重：请用旁边的 zero_to_fp32.py 合成一个文件"
    ),
    "name one in it, such as {path}": "请写出其中的一个，例如 {path}",
    "it holds none": "其中没有检查点",
    "it is cut off, or not a checkpoint": "它不完整，或不是检查点",
    "a part of it lies beyond its end": "它的一部分超出了文件结尾",
    "the checksum of {name} is wrong": "{name} 的校验和不对",
    "the gradient norm is {norm}": "梯度范数为 {norm}",
    "the loss is {loss:.4g}, {times:.3g} times the usual {usual:.4g}": (
        "loss 为 {loss:.4g}，是通常值 {usual:.4g} 的 {times:.3g} 倍"
    ),
    "iter {iter}: {why}": "第 {iter} 次迭代：{why}",
    "item {number}": "条目 {number}",
    " and {count} more": " 等，另有 {count} 条",
    "Rows in this update: {named}": "这次更新的数据：{named}",
    "Rows in this batch: {named}": "这个批次的数据：{named}",
    "iter %d: the update took %.1f s, usual are %.2f s; %.1f s of it were a wait for data. "
    "Rows of this process: %s": (
        "第 %d 次迭代：这次更新用了 %.1f 秒，平常是 %.2f 秒；其中 %.1f 秒在等数据。本进程的数据：%s"
    ),
    "{kind} does not know the lengths of its items, so none is the longest: leave out --longest": (
        "{kind} 不知道各条目的长度，因此没有最长的：请去掉 --longest"
    ),
    "with streaming = True rows are read while training, so none is the longest: leave out --longest": (
        "streaming = True 时数据在训练中读取，因此没有最长的：请去掉 --longest"
    ),
    "%d updates took far longer than usual; the first %d are named above": (
        "%d 次更新比平常慢得多；前 %d 次已在上面列出"
    ),
    "... (of {tokens} tokens in {lines} lines; xtuner log-dataset CONFIG shows all)": (
        "……（共 {tokens} 个 token，{lines} 行；xtuner log-dataset CONFIG 可显示全部）"
    ),
    "with streaming = True the length of an epoch is not known": "streaming = True 时一轮的长度未知",
    "train_cfg.max_epochs is {epochs}, and {why}: give train_cfg = dict(type=TrainLoop, max_iters=...) "
    "instead": (
        "train_cfg.max_epochs 为 {epochs}，而{why}：请改写 train_cfg = dict(type=TrainLoop, max_iters=...)"
    ),
    "param_scheduler.{number} counts epochs, and {why}: set by_epoch = False, and begin and end in "
    "iterations": (
        "param_scheduler.{number} 按轮计数，而{why}：请设 by_epoch = False，并以迭代次数写 begin 和 end"
    ),
    "default_hooks.checkpoint counts epochs, and {why}: set by_epoch = False, and interval in iterations": (
        "default_hooks.checkpoint 按轮计数，而{why}：请设 by_epoch = False，并以迭代次数写 interval"
    ),
    "... and {count} more lines": "……另有 {count} 行",
    "the base model of the config": "配置中的基座模型",
    "This model's attention asks for {what}: set attn_implementation = 'eager' in model.llm": (
        "这个模型的 attention 需要{what}：请在 model.llm 中设 attn_implementation = 'eager'"
    ),
    "a mask of its own": "自己的掩码",
    "tokens that come later": "看到后面的 token",
    "sequence_parallel_size: models of the family '{family}' have an attention of their own, which cannot "
    "work on parts of a sequence: set sequence_parallel_size = 1": (
        "sequence_parallel_size：'{family}' 系列的模型有自己的 attention，不能处理序列的一部分："
        "请设 sequence_parallel_size = 1"
    ),
    "The checkpoint does not fit the model: {faults}": "检查点与模型不匹配：{faults}",
    "{count} weights are missing, as {name}": "缺少 {count} 个权重，例如 {name}",
    "{count} weights are unexpected, as {name}": "多出 {count} 个权重，例如 {name}",
    "Not all processes see %s: rank 0 writes whole checkpoints, and needs the memory for one": (
        "并非所有进程都能看到 %s：由 rank 0 写出完整的检查点，需要相应的内存"
    ),
    "default_hooks.checkpoint.sharded needs a folder that all processes see, which {folder} is not: use a "
    "shared one, or sharded = False": (
        "default_hooks.checkpoint.sharded 需要所有进程都能看到的目录，而 {folder} 不是：请用共享目录，"
        "或设 sharded = False"
    ),
    "{path} is sharded and not on all machines: resume from a folder that all of them see, or make one file "
    "of it with xtuner convert checkpoint": (
        "{path} 是分片检查点，并非所有机器上都有：请从所有机器都能看到的目录恢复，"
        "或用 xtuner convert checkpoint 把它转成一个文件"
    ),
    "default_hooks.checkpoint.sharded: DeepSpeed's states cannot be written in parts; remove it, or train "
    "with fsdp = True": (
        "default_hooks.checkpoint.sharded：DeepSpeed 的状态不能分片写出；请删除它，或用 fsdp = True 训练"
    ),
    "{path} exists: remove it, or name another": "{path} 已存在：请删除它，或换一个名称",
    "All done! {path} is one file.": "完成！{path} 是一个文件。",
    "All done! {path} is sharded.": "完成！{path} 是分片检查点。",
}
