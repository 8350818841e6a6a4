"""What is said of models, adapters and tokenizers."""

from __future__ import annotations

MODEL = {
    "bitsandbytes documents no layers in 4 or 8 bits on {device}: use the model in 16 bits (LoRA without "
    "quantization_config, chat without --bits)": (
        "bitsandbytes 的文档中没有 {device} 上的 4 比特或 8 比特层：请以 16 比特使用模型（LoRA 不设 "
        "quantization_config，对话不用 --bits）"
    ),
    "layers in 4 and 8 bits on {device} need {package} {lowest}, here is {have}: {install}, or use the "
    "model in 16 bits (LoRA without quantization_config, chat without --bits)": (
        "{device} 上的 4 比特和 8 比特层需要 {package} {lowest}，这里是 {have}：{install}，或以 16 比特"
        "使用模型（LoRA 不设 quantization_config，对话不用 --bits）"
    ),
    "use_activation_checkpointing='offload' saves nothing on {device}, whose memory is the host's: "
    "layers recompute as with True": (
        "use_activation_checkpointing='offload' 在 {device} 上不省内存，因为它与主机共用内存：各层按 "
        "True 重算"
    ),
    "Triton's kernels do not run on {device} in {dtype}, so training there is slower and takes more "
    "memory: {kind}: {error}": (
        "Triton 的 kernel 无法在 {device} 上以 {dtype} 运行，因此训练更慢、占用更多内存：{kind}：{error}"
    ),
    "sequence_parallel_size: {kind} cannot train on parts of a sequence: set it to 1": (
        "sequence_parallel_size：{kind} 不能只用序列的一部分训练，请设为 1"
    ),
    "added_tokens_decoder in tokenizer_config.json gives {token!r} the id {token_id}, and the "
    "vocabulary gives it {own_id}": (
        "tokenizer_config.json 的 added_tokens_decoder 中 {token!r} 的 id 为 {token_id}，而词表中为 {own_id}"
    ),
    "{path} is not a sentencepiece model: {error}": "{path} 不是 sentencepiece 模型：{error}",
    "{path} is not a sentencepiece model: it has no pieces": "{path} 不是 sentencepiece 模型：其中没有 piece",
    "{path} is not a byte-pair model, as InternLM's tokenizers are": (
        "{path} 不是 byte-pair 模型，而 InternLM 的 tokenizer 应该是"
    ),
    "{path} puts spaces behind words (treat_whitespace_as_suffix), which is not supported": (
        "{path} 把空格放在词后（treat_whitespace_as_suffix），不支持这种方式"
    ),
    "Packed samples of models of the family '{family}' were tested for isolation up to {FURTHEST} "
    "tokens; beyond, {limit} in their config may mix them": (
        "'{family}' 系列模型的样本打包隔离已测试到 {FURTHEST} 个 token；更长时，配置中的 {limit} 可能使样本"
        "互相可见"
    ),
    "Testing the isolation of packed samples failed: %s: %s": "测试打包样本的隔离时失败：%s: %s",
    "'{family}' is a multimodal model: its language part is trained on text, and the {size:,} "
    "parameters of its vision and audio parts are frozen": (
        "'{family}' 是多模态模型：用文本训练其语言部分，视觉和听觉部分的 {size:,} 个参数已冻结"
    ),
    "the parts of {source} do not fit each other: an image cannot be encoded: {error}": (
        "{source} 的各部分互不匹配：无法编码图像：{error}"
    ),
    "--llava {llava}: this is a whole LLaVA model: xtuner chat {llava} --image ...": (
        "--llava {llava}：这是完整的 LLaVA 模型：请用 xtuner chat {llava} --image ..."
    ),
    "--llava {llava}: this is not a LLaVA folder: it has no projector/config.json": (
        "--llava {llava}：这不是 LLaVA 目录：没有 projector/config.json"
    ),
    "%s has a language model of its own, and %s is used with its projector": (
        "%s 自带语言模型，这里改用 %s 和它的 projector"
    ),
    "--visual-encoder %s is not used: %s was trained with %s": (
        "未使用 --visual-encoder %s：%s 是用 %s 训练的"
    ),
    "--llava {llava} has no visual_encoder folder: give its CLIP with --visual-encoder": (
        "--llava {llava} 没有 visual_encoder 目录：请用 --visual-encoder 指定它的 CLIP"
    ),
    "There is no LLaVA folder {name}": "没有 LLaVA 目录 {name}",
    "There is no LLaVA folder {name}, neither here nor on the hub": "本机和 hub 上都没有 LLaVA 目录 {name}",
    "the projector {projector} was made for another model than {other}: its {setting} is {value}, and "
    "{other} has {have}": (
        "projector {projector} 是为另一个模型（而非 {other}）制作的：它的 {setting} 为 {value}，而 {other} "
        "为 {have}"
    ),
    "the tokenizer of {path} has no image token: {token!r} is not a token": (
        "{path} 的 tokenizer 没有图像 token：{token!r} 不是一个 token"
    ),
    "Load visual_encoder from %s": "从 %s 加载视觉编码器",
    "the visual encoder {visual_encoder} cannot be loaded: {error}": (
        "无法加载视觉编码器 {visual_encoder}：{error}"
    ),
    "the visual encoder {visual_encoder} has no {name}": "视觉编码器 {visual_encoder} 没有 {name}",
    "Load visual_encoder adapter from %s": "从 %s 加载视觉编码器的适配器",
    "Load projector from %s": "从 %s 加载 projector",
    "{file} does not describe a projector: {error}": "{file} 描述的不是 projector：{error}",
    "the projector {folder} has no weights: none of {names}": "projector {folder} 没有权重：缺少 {names}",
    "{file} and the config beside it differ: {name} is {there}, not {here}": (
        "{file} 与它旁边的配置不一致：model.{name} 为 {there}，应为 {here}"
    ),
    "{path} has no {name}, which says how images are prepared": "{path} 没有 {name}，其中写明如何处理图像",
    "the image processor of {path} cannot be loaded: {error}": "无法加载 {path} 的图像处理器：{error}",
    "{value!r} is not a dtype; write torch.float16, torch.bfloat16, torch.float32 or 'auto'": (
        "{value!r} 不是 dtype；请写 torch.float16、torch.bfloat16、torch.float32 或 'auto'"
    ),
    "This {device} does not compute in {wanted}: {used} is used instead": (
        "此 {device} 不能以 {wanted} 计算：改用 {used}"
    ),
    "The new embedding rows are neither trained nor saved with the adapter unless model.lora has "
    "modules_to_save with the names of the embedding and the head": (
        "新增的 embedding 行既不训练也不随适配器保存，除非 model.lora 的 modules_to_save 写有 embedding 和"
        "输出头的名称"
    ),
    "model.llm has no type; write type=AutoModelForCausalLM.from_pretrained": (
        "model.llm 没有 type；请写 type=AutoModelForCausalLM.from_pretrained"
    ),
    "Full fine-tuning: weights are loaded in fp32, which fp16 mixed precision needs": (
        "全量微调：权重以 fp32 加载，fp16 混合精度需要如此"
    ),
    "device_map={device_map!r}: each process trains on its own device, {device}": (
        "device_map={device_map!r}：每个进程都在自己的设备 {device} 上训练"
    ),
    "attn_implementation={asked!r} makes square masks for packed samples; the built-in attention needs "
    "none": ("attn_implementation={asked!r} 会为打包样本生成方形掩码；内置的 attention 不需要"),
    "attn_implementation={asked!r} does not exist on {device}: the built-in attention is used instead": (
        "{device} 上没有 attn_implementation={asked!r}：改用内置的 attention"
    ),
    "The model {path} cannot be loaded: {kind}: {error}{cure}": "无法加载模型 {path}：{kind}: {error}{cure}",
    "The config of the model {path} cannot be read: {error}": "无法读取模型 {path} 的配置：{error}",
    "model.max_position_embeddings = {length}: models of the family '{model_type}' have no rotary "
    "positions to scale; remove it": (
        "model.max_position_embeddings = {length}：'{model_type}' 系列的模型没有可缩放的旋转位置编码；请删"
        "除它"
    ),
    "model.max_position_embeddings = {length}: the model has {have} positions and already scales its "
    "rope by '{kind}'; remove it, or change rope_scaling in the model's config.json": (
        "model.max_position_embeddings = {length}：模型有 {have} 个位置，且已用 '{kind}' 缩放 rope；请删除"
        "它，或修改模型 config.json 中的 rope_scaling"
    ),
    "Rope is scaled linearly by {factor}: from {have} to {length} positions": (
        "rope 线性缩放 {factor} 倍：从 {have} 个位置到 {length} 个"
    ),
    "Token embeddings are resized from {old} to {new}.": "token embedding 从 {old} 行扩大到 {new} 行。",
    "The tokenizer of {path} cannot be loaded: {kind}: {reason}{cure}": (
        "无法加载 {path} 的 tokenizer：{kind}: {reason}{cure}"
    ),
    "trust_remote_code=True: running {files}": "trust_remote_code=True：运行 {files}",
    "Load LLM from {path}": "从 {path} 加载语言模型",
    "Load adapter from {adapter}": "从 {adapter} 加载适配器",
    "model.lora.inference_mode=True would freeze the adapter; it is trained all the same": (
        "model.lora.inference_mode=True 会冻结适配器；这里仍然训练它"
    ),
    "model.lora.{reason}: peft has no such adapter for {name}, which holds a layer's experts: leave it out": (
        "model.lora.{reason}：peft 对 {name} 没有这种适配器，它存放一层的各个专家：请去掉"
    ),
    "The adapter {folder} does not fit the base model {base}: {error}": (
        "适配器 {folder} 与基座模型 {base} 不匹配：{error}"
    ),
    "The adapter {folder} has no weights: none of {names}": "适配器 {folder} 没有权重：缺少 {names}",
    "{path} cannot be read as weights: {error}": "无法从 {path} 读取权重：{error}",
    "The adapter {source} does not fit the base model {base}: it has no {key}": (
        "适配器 {source} 与基座模型 {base} 不匹配：它没有 {key}"
    ),
    "The adapter {source} was made for another base model than {base}: {key} is {there} there and "
    "{here} here": (
        "适配器 {source} 不是为基座模型 {base} 制作的：{key} 在适配器中为 {there}，在此为 {here}"
    ),
    "The adapter {source} has {count} weights for layers that {base} does not have, such as {name}": (
        "适配器 {source} 有 {count} 个权重在 {base} 中没有对应的层，例如 {name}"
    ),
    "model.peft_model = {path!r}: there is no such file or folder": (
        "model.peft_model = {path!r}：没有这个文件或目录"
    ),
    "Load adapter from %s, with its own settings: r=%d": "从 %s 加载适配器，使用它自己的设置：r=%d",
    "model.lora is not used with model.peft_model = {folder!r}: {others}": (
        "有 model.peft_model = {folder!r} 时不使用 model.lora：{others}"
    ),
    "Load adapter from {path}": "从 {path} 加载适配器",
    "The adapter {folder} was made for {named}; it is put on {here} here": (
        "适配器 {folder} 是为 {named} 制作的，这里用于 {here}"
    ),
    "Each process reads {path} whole before it keeps its part: {reason}": (
        "每个进程先完整读取 {path} 再保留自己的部分：{reason}"
    ),
    "bits is {bits}; write 4, 8 or None": "bits 为 {bits}；请写 4、8 或 None",
    "Not quantised, because the family's own code reads their weights: {names}": (
        "不量化，因为该系列自己的代码要读取其权重：{names}"
    ),
    "The weights are quantised with {method}; they are read and trained in 16 bits": (
        "权重是用 {method} 量化的；以 16 位读取和训练"
    ),
    "Only linear layers are quantised: experts are packed here and stay in {kept}, {size:.1f} GB": (
        "只量化线性层：专家在此打包存放，保持 {kept}，{size:.1f} GB"
    ),
    "{odd} of {layers} layers in 4 bits have sizes that bitsandbytes' kernel for this CPU lacks: "
    "they are dequantised at each forward, which is slower": (
        "{layers} 个 4 位层中有 {odd} 个的尺寸是 bitsandbytes 在此 CPU 上的内核不支持的：每次前向都要反量化"
        "，速度较慢"
    ),
    "use_activation_checkpointing={way!r}: models of the family '{model_type}' cannot recompute, so "
    "their layers keep all activations: more memory is needed": (
        "use_activation_checkpointing={way!r}：'{model_type}' 系列的模型不能重计算，各层保留全部激活：需要"
        "更多内存"
    ),
    "Recomputation: {way}, for {TOKENS} tokens in a batch and {free:.1f} GB free": (
        "重计算：{way}，按每批 {TOKENS} 个 token、可用 {free:.1f} GB"
    ),
    "The checkpoint has no weights of a language model: names should start with '{PREFIX}', the first "
    "one is {example!r}": ("检查点中没有语言模型的权重：名称应以 '{PREFIX}' 开头，而第一个是 {example!r}"),
    "model.lora.target_parameters names {wanted!r}, which this model does not have.{hint}": (
        "model.lora.target_parameters 写有 {wanted!r}，而这个模型没有。{hint}"
    ),
    "model.lora.target_modules names {name!r}, which this model does not have; its linear layers are "
    "{names}.{hint}": (
        "model.lora.target_modules 写有 {name!r}，而这个模型没有；它的线性层有 {names}。{hint}"
    ),
    "model.lora.target_modules names {name}, one of {reason}: leave it out": (
        "model.lora.target_modules 写有 {name}，它属于{reason}：请去掉"
    ),
    "model.lora.target_modules names {name!r}, which is not a layer but holds some; the linear layers of "
    "this model are {names}": (
        "model.lora.target_modules 写有 {name!r}，它不是层，而是含有若干层；这个模型的线性层有 {names}"
    ),
    "Layers recompute and keep their inputs on the device: this transformers has another way to it": (
        "各层重计算，输入保留在设备上：此版本的 transformers 的做法不同"
    ),
    "{name} of {package} {version} is not the code that XTuner's own was proven against: {cost}": (
        "{package} {version} 的 {name} 不是 XTuner 自己的实现所验证过的代码：{cost}"
    ),
    "of an unknown version": "（版本未知）",
    "No layer of this model is a {path}, as its family's are: {cost}": (
        "此模型没有一层是其系列应有的 {path}：{cost}"
    ),
    "rotary positions that follow a sample's length may be wrong in packs: compare the loss without": (
        "随样本长度变化的旋转位置编码在打包时可能有误：请与不打包时的 loss 比较"
    ),
    "gradients on a CPU may be wrong once the model has answered in evaluation mode": (
        "模型在评估模式下回答过之后，CPU 上的梯度可能有误"
    ),
    "each sample runs by itself: slower with many short samples": ("每个样本单独运行：短样本多时较慢"),
    "each mask of a pack waits for the device": "打包数据的每个掩码都要等待设备",
    "experts train as they are, to the same result, with several times the memory": (
        "专家照原样训练，结果相同，但内存是数倍"
    ),
    "it trains as it is, to the same result, with more time and memory": (
        "照原样训练，结果相同，但更费时间和内存"
    ),
    "adapters run as peft has them, to the same result, with more time and memory": (
        "适配器按 peft 的方式运行，结果相同，但更费时间和内存"
    ),
    "adapters of experts run as peft has them, to the same result, with several times the memory": (
        "专家的适配器按 peft 的方式运行，结果相同，但需要数倍的内存"
    ),
    "missing": "缺失",
    "; a file of weights is damaged or cut off, download it again": "；权重文件已损坏或不完整，请重新下载",
    "; its tekken.json needs the package mistral-common: {command}": (
        "；它的 tekken.json 需要 mistral-common 软件包：{command}"
    ),
    "; it may need --trust-remote-code, which runs its own Python files": (
        "；也许需要 --trust-remote-code，它会运行目录自带的 Python 文件"
    ),
    "model.lora: {kind} has no linear layer; name target_modules yourself": (
        "model.lora：{kind} 没有线性层；请自行写出 target_modules"
    ),
    "model.lora.target_modules names only layers of the vision and audio parts, which text does not train; "
    "those of the language part are {names}": (
        "model.lora.target_modules 只写了视觉和听觉部分的层，文本训练不到它们；语言部分的层有 {names}"
    ),
    "packed experts, for which peft has no {reason}": "打包的专家（peft 对它们没有 {reason}）",
    "{setting}={value!r} (the adapter's is {own!r})": "{setting}={value!r}（适配器中为 {own!r}）",
    "{count} linear layers ({names}) and ": " {count} 个线性层（{names}）和",
    "LoRA on {layers}the experts of each layer: {experts}; {ranks}": (
        "LoRA 用于{layers}各层的专家：{experts}；{ranks}"
    ),
    "lora_dropout={rate} is that of linear layers: peft has none for packed experts": (
        "lora_dropout={rate} 只用于线性层：peft 对打包的专家没有 dropout"
    ),
    "LoRA leaves out {what}: {names}": "LoRA 略去{what}：{names}",
    "LoRA: {names} share weights with other layers and have adapters of their own, which no merged model can "
    "hold: use the adapter with its base model": (
        "LoRA：{names} 与其他层共享权重，又有各自的适配器，合并后的模型无法保存：请把适配器与基座模型一起使用"
    ),
    "model.lora.lora_bias: {names} have no bias, so no merged model can hold that of the adapter: use the "
    "adapter with its base model": (
        "model.lora.lora_bias：{names} 没有 bias，合并后的模型无法保存适配器的 bias："
        "请把适配器与基座模型一起使用"
    ),
    "rank {ranks} for each expert": "每个专家的秩为 {ranks}",
    ", as a token passes {count}": "，因为一个 token 经过 {count} 个专家",
    "model.lora.target_modules: this family packs experts, so {names} are adapted for them": (
        "model.lora.target_modules：该系列把专家打包存放，因此适配器用于 {names}"
    ),
    "quantised weights are divided after loading": "量化的权重在加载之后才切分",
    "not all of its weights are safetensors of one precision": "它的权重并非都是同一精度的 safetensors",
    "its files hold {stored} and {dtype} is asked for": "文件中为 {stored}，而需要 {dtype}",
    "its constants depend on the precision, and its files hold {stored}, not {dtype}": (
        "它的常量取决于精度，而文件中为 {stored}，不是 {dtype}"
    ),
    "nothing": "无",
    # what has no adapter
    "the routers of experts or tokens": "选择专家或 token 的路由层",
    "the vision and audio parts": "视觉和听觉部分",
    "the layers whose weight a kernel of the family reads, which bypasses an adapter": (
        "权重由该系列的内核直接读取的层，适配器对它们不起作用"
    ),
    "the layers that do more than a matrix product": "不只做矩阵乘法的层",
    "the model's logits are not finite: load it in bf16 or fp32": (
        "模型的 logits 不是有限数：请用 bf16 或 fp32 加载"
    ),
    "the prompt is empty: there is nothing to answer": "提示为空，没有可回答的内容",
    "max_new_tokens is {count}, but must be at least 1": "max_new_tokens 为 {count}，但必须至少为 1",
    "the prompt has {count} tokens; the model's context holds {context}": (
        "提示有 {count} 个 token，而模型的上下文为 {context}"
    ),
    "EvaluateChatHook: generation_kwargs has an unknown name {name!r}.{hint} Known: {known}": (
        "EvaluateChatHook：generation_kwargs 中有未知的名称 {name!r}。{hint} 已知：{known}"
    ),
    "train_dataloader: {method} trains on pairs of answers: set dataset = "
    "dict(type=build_preference_dataset, ...) and collate_fn = dict(type=preference_collate_fn)": (
        "train_dataloader：{method} 用成对的回答训练：请设置 "
        "dataset = dict(type=build_preference_dataset, ...) 和 collate_fn = dict(type=preference_collate_fn)"
    ),
    "{method} does not add the loss that balances experts, which the model's config asks for": (
        "模型配置要求的专家均衡损失不会加入 {method} 的损失"
    ),
    "model.{name} is {value!r}, but must be one of: {known}": (
        "model.{name} 为 {value!r}，但必须是以下之一：{known}"
    ),
    "model.beta is {value}, but must be above 0: the usual value is 0.1": (
        "model.beta 为 {value}，但必须大于 0：常用值为 0.1"
    ),
    "model.label_smoothing is {value}, but must be at least 0 and below 0.5": (
        "model.label_smoothing 为 {value}，但必须不小于 0 且小于 0.5"
    ),
    "model.label_smoothing is {value}, but loss_type {loss_type!r} has none: set it to 0": (
        "model.label_smoothing 为 {value}，但 loss_type {loss_type!r} 没有标签平滑：请设为 0"
    ),
    "model.f_divergence_type is {value!r}, but loss_type {loss_type!r} has only 'reverse_kl'": (
        "model.f_divergence_type 为 {value!r}，但 loss_type {loss_type!r} 只有 'reverse_kl'"
    ),
    "model.{name} is {value}, but must be at least 0": "model.{name} 为 {value}，但不能小于 0",
    "loss_type {loss_type!r} compares the pairs of a batch with each other: how many a batch holds "
    "(batch_size, max_packed_length) changes the loss": (
        "loss_type {loss_type!r} 会把同一批中的各对相互比较："
        "一批有多少对（batch_size、max_packed_length）会影响损失"
    ),
    "The reference is the base model without the adapter model.peft_model = {path!r}: to stay near that one, "
    "merge it into its base and train a new adapter": (
        "参考模型是不带适配器 model.peft_model = {path!r} 的基座模型：若要贴近该适配器，"
        "请先把它合并进基座，再训练新的适配器"
    ),
    "model.ref_llm has {size} tokens and model.llm {trained}: the reference must have the same vocabulary; "
    "name a model of the same family": (
        "model.ref_llm 有 {size} 个 token，而 model.llm 有 {trained} 个："
        "参考模型必须有相同的词表；请使用同一系列的模型"
    ),
    "model.ref_llm has another vocabulary than model.llm: token {token!r} is {there} there and {number} "
    "here; name a model of the same family": (
        "model.ref_llm 与 model.llm 的词表不同：token {token!r} 在前者为 {there}，在后者为 {number}；"
        "请使用同一系列的模型"
    ),
    "model.reward_token_id is {token}, the padding token, which has no score: take another": (
        "model.reward_token_id 为 {token}，它是填充 token，没有分数：请换一个"
    ),
    "model.reward_token_id is {token}, but a sample ends with token {last}: set is_reward = True and the "
    "same reward_token_id in build_preference_dataset": (
        "model.reward_token_id 为 {token}，但有样本以 token {last} 结尾：请在 build_preference_dataset 中"
        "设置 is_reward = True 和相同的 reward_token_id"
    ),
    "model.llm has no pretrained_model_name_or_path: name the model": (
        "model.llm 没有 pretrained_model_name_or_path：请写出模型"
    ),
    "model.llm is a {kind}, which has no head '{head}' of {count} outputs": (
        "model.llm 是 {kind}，它没有 {count} 个输出的 '{head}' 头"
    ),
    "The adapter {folder} is one of a model that scores texts and does not write any: load it with "
    "AutoPeftModelFor{head} of peft": (
        "适配器 {folder} 属于给文本打分、不生成文本的模型：请用 peft 的 AutoPeftModelFor{head} 加载"
    ),
    "train_dataloader: {method} trains on single answers with labels: set dataset = "
    "dict(type=build_unpaired_dataset, ...) and collate_fn = dict(type=unpaired_collate_fn)": (
        "train_dataloader：{method} 用带标签的单个回答训练：请设置 "
        "dataset = dict(type=build_unpaired_dataset, ...) 和 collate_fn = dict(type=unpaired_collate_fn)"
    ),
    "KTO has no mismatched answers: the KL to the reference is taken as 0": (
        "KTO 没有错配的回答：与参考模型的 KL 按 0 计算"
    ),
}
