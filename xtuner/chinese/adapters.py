"""What is said of adapters other than LoRA."""

from __future__ import annotations

ADAPTERS = {
    "model.lora.type is {name}, which is not trained here: {reason}; docs/adapters.md shows those that are": (
        "model.lora.type 为 {name}，这里不训练它：{reason}；可训练的见 docs/adapters.md"
    ),
    "it is newer than this version of XTuner": "它比此版本的 XTuner 更新",
    "it needs scikit-learn, which XTuner does not install": "它需要 scikit-learn，XTuner 不安装它",
    "its router takes the mean over all tokens of a batch, so packed samples would mix": (
        "它的路由器对一批的全部 token 取平均，打包的样本会互相混合"
    ),
    "it runs a second model beside the base, whose loss only peft's own forward has": (
        "它在基座旁运行另一个模型，其损失只有 peft 自己的前向才有"
    ),
    "it needs examples or tasks that a config of a run does not name": "它需要示例或任务，而运行的配置中没有",
    "each row would need the number of its task": "每行都需要其任务的编号",
    "it mixes adapters that have been trained before": "它混合此前训练好的适配器",
    "model.lora: {name} of peft does not fit {kind}: {error}": (
        "model.lora：peft 的 {name} 不适合 {kind}：{error}"
    ),
    "nothing of it is trained": "其中没有可训练的部分",
    "it has no linear layer": "它没有线性层",
    "model.lora.type is {name}, which peft does not have for quantised weights: remove "
    "model.llm.quantization_config, or use LoraConfig": (
        "model.lora.type 为 {name}，peft 没有用于量化权重的此类适配器：请删去 model.llm.quantization_config，"
        "或使用 LoraConfig"
    ),
    "model.lora: {name} adapts linear layers, and leaves out packed experts": (
        "model.lora：{name} 适配线性层，不含打包的专家"
    ),
    "model.peft_model: the folder {folder} has virtual tokens without what made them: use --resume": (
        "model.peft_model：目录 {folder} 只有虚拟 token，没有生成它们的部分：请用 --resume"
    ),
    "The adapter {source} does not fit the base model: {count} weights differ, such as {name}": (
        "适配器 {source} 与基座模型不符：{count} 个权重不同，如 {name}"
    ),
    "model.peft_model = {path!r} is a checkpoint, from which only LoRA continues: convert it with xtuner "
    "convert pth_to_hf and name that folder, or use --resume": (
        "model.peft_model = {path!r} 是检查点，只有 LoRA 能从它继续：请用 xtune"
        "r convert pth_to_hf 转换并写该目录，"
        "或使用 --resume"
    ),
    "model.lora is not used with model.peft_model = {folder!r}, an adapter of {name}": (
        "有 model.peft_model = {folder!r}（{name} 的适配器）时不使用 model.lora"
    ),
    "model.lora: AdaLoRA chooses ranks after tinit = {tinit} updates and before the last tfinal = "
    "{tfinal}, and this run has {count}: lower them": (
        "model.lora：AdaLoRA 在 tinit = {tinit} 次更新之后、最后 tfinal"
        " = {tfinal} 次之前选择秩，而本次运行有 "
        "{count} 次更新：请调小它们"
    ),
    "model.lora.total_step = {given} is not used: the run has {count} updates": (
        "不使用 model.lora.total_step = {given}：本次运行有 {count} 次更新"
    ),
    "Virtual tokens come before each sample, so each sample runs by itself": (
        "每个样本前都有虚拟 token，因此各样本单独运行"
    ),
    "model.use_activation_checkpointing: prefix tuning keeps its tokens in the cache, which layers "
    "that recompute do not have: set it to False": (
        "model.use_activation_checkpointing：prefix tuning 的 tok"
        "en 在缓存中，重计算的层没有缓存：请设为 False"
    ),
    "sequence_parallel_size: virtual tokens come before whole sequences: set it to 1": (
        "sequence_parallel_size：虚拟 token 放在整条序列之前：请设为 1"
    ),
    "model.lora.type: {kind} trains without --deepspeed: use --fsdp, or neither": (
        "model.lora.type：{kind} 不能与 --deepspeed 一起训练：请用 --fsdp，或两者都不用"
    ),
    "model.lora.type: {kind} trains without --fsdp and --deepspeed: leave it out": (
        "model.lora.type：{kind} 不能与 --fsdp 和 --deepspeed 一起训练：请去掉"
    ),
    "{kind} has no cache of keys and values, in which virtual tokens come before the text": (
        "{kind} 没有键值缓存，虚拟 token 须在其中位于文本之前"
    ),
    "An adapter of virtual tokens does not go with the positions of images": (
        "虚拟 token 的适配器不能与图像的位置编号一起使用"
    ),
    "{folder}: adapters of type {kind} cannot be merged into a model: use it beside its base": (
        "{folder}：{kind} 类型的适配器不能合并进模型：请与基座一起使用"
    ),
    "{folder} cannot be merged into a model: {error}": "{folder} 不能合并进模型：{error}",
    "{base} holds {name}, which its model in transformers does not have: the adapter is not merged": (
        "{base} 含有 {name}，而 transformers 中的模型没有它：未合并适配器"
    ),
    "Only LoRA adapters and whole models have a mean: {path} is another adapter": (
        "只有 LoRA 适配器和完整模型能取平均：{path} 是其他适配器"
    ),
}
