"""Training with images, in Chinese."""

VISION = {
    # stored features of images
    "model.image_features is {value}: write dict(folder=..., max_gb=100)": (
        "model.image_features 为 {value}：请写为 dict(folder=..., max_gb=100)"
    ),
    "model.image_features: the encoder is trained, so its features change: set freeze_visual_encoder = True "
    "without visual_encoder_lora, or remove image_features": (
        "model.image_features：编码器参与训练，其特征会变化：请设置 freeze_visual_encoder = True "
        "且不使用 visual_encoder_lora，或删除 image_features"
    ),
    "model.image_features: fsdp and ZeRO 3 divide the encoder: use DDP or ZeRO 2, or remove it": (
        "model.image_features：fsdp 与 ZeRO 3 会切分编码器：请使用 DDP 或 ZeRO 2，或删除此设置"
    ),
    "model.image_features: {name}.dataset is a {kind}, which has no images of LLaVADataset: remove it": (
        "model.image_features：{name}.dataset 是 {kind}，没有 LLaVADataset 的图像：请删除此设置"
    ),
    "model.image_features: the features need {total:.3f} GB, and of max_gb = {limit} three quarters are "
    "kept: set max_gb to {wanted:.3f} or more": (
        "model.image_features：特征需要 {total:.3f} GB，而 max_gb = {limit} 只保留其四分之三："
        "请将 max_gb 设为 {wanted:.3f} 或更大"
    ),
    "Image features: {count:,} images x {rows} rows x {width} x {size} bytes = {total:.3f} GB in {folder}; "
    "{stored:,} are stored, {missing:,} are computed": (
        "图像特征：{count:,} 张图像 x {rows} 行 x {width} x {size} 字节 = {total:.3f} GB，位于 {folder}；"
        "已存有 {stored:,} 张，将计算 {missing:,} 张"
    ),
    "image features": "图像特征",
    "%.200s: its stored features are missing or damaged: the encoder runs again": (
        "%.200s：其存储的特征缺失或已损坏：重新运行编码器"
    ),
    # model
    "{setting} {path} is not a CLIP or SigLIP: its family is {model_type!r}": (
        "{setting} {path} 不是 CLIP 或 SigLIP：它属于 {model_type!r} 系列"
    ),
    "{setting} is {select_layer}: {visual_encoder} has the layers {first} to {last}": (
        "{setting} 为 {select_layer}：{visual_encoder} 的层为 {first} 到 {last}"
    ),
    "model.visual_encoder has no pretrained_model_name_or_path: name a folder of CLIP or SigLIP": (
        "model.visual_encoder 缺少 pretrained_model_name_or_path：请写明 CLIP 或 SigLIP 的文件夹"
    ),
    "LLaVA trains {parts}": "LLaVA 训练：{parts}",
    "model.pretrained_pth = {path!r} has no projector: it is not the checkpoint of a LLaVA": (
        "model.pretrained_pth = {path!r} 中没有 projector：它不是 LLaVA 的 checkpoint"
    ),
    "Load pretrained weight from {path}": "从 {path} 加载预训练权重",
    "model.pretrained_pth: {count} of its weights belong to no part of this model, as {name}": (
        "model.pretrained_pth：其中 {count} 个权重不属于此模型的任何部分，例如 {name}"
    ),
    "the batch has {count} tokens for images, and its images have {rows} rows: the image processor of the "
    "data and model.visual_encoder do not belong together": (
        "该批次有 {count} 个图像 token，而图像共有 {rows} 行：数据的 image_processor 与 "
        "model.visual_encoder 不匹配"
    ),
    "EvaluateChatHook: {images} evaluation_images for {inputs} evaluation_inputs: give one image for all "
    "inputs, or one for each": (
        "EvaluateChatHook：{inputs} 个 evaluation_inputs 对应 {images} 张 evaluation_images："
        "请为所有输入给出一张图像，或每个输入一张"
    ),
    "EvaluateChatHook: {kind} reads no images: remove evaluation_images": (
        "EvaluateChatHook：{kind} 不读取图像：请删除 evaluation_images"
    ),
    "EvaluateChatHook: samples have no image, because {error}": "EvaluateChatHook：采样没有图像：{error}",
    "{setting} has no pretrained_model_name_or_path: name its folder": (
        "{setting} 缺少 pretrained_model_name_or_path：请写明其文件夹"
    ),
    "model.pretrained_pth: {error}; name the checkpoint of the stage before{hint}": (
        "model.pretrained_pth：{error}；请写明上一阶段的 checkpoint{hint}"
    ),
    "vision_lora beside a language model that is trained as a whole: give the language model an adapter "
    "too (lora), or set freeze_llm = True": (
        "vision_lora 与整体训练的语言模型不能并用：请也给语言模型设置 adapter（lora），或设 freeze_llm = True"
    ),
    "model.visual_encoder_lora.target_modules names no linear layer of the encoder; they are {names}": (
        "model.visual_encoder_lora.target_modules 没有指定编码器的任何线性层；可选的有 {names}"
    ),
    "visual_encoder_lora.{name} is {own!r} and llm_lora.{name} {other!r}: they are one adapter": (
        "visual_encoder_lora.{name} 为 {own!r}，而 llm_lora.{name} 为 {other!r}：两者属于同一个 adapter"
    ),
    "{path}: models with ps_version {version} order the parts of an image in another way: {cure}": (
        "{path}：ps_version 为 {version} 的模型以另一种顺序排列图像的各部分：{cure}"
    ),
    "name one of InternVL 1.5 or later": "请指定 InternVL 1.5 或更新的模型",
    "the tokenizer of {path} has no {token}": "{path} 的 tokenizer 没有 {token}",
    "{path}: {name} = {value} in its config.json is not supported": (
        "{path}：不支持其 config.json 中的 {name} = {value}"
    ),
    "the weights of {path} lack {name}, under its name in the package llava": (
        "{path} 的权重中没有 {name}（按 llava 软件包的名称）"
    ),
    "there is no such folder": "没有这个目录",
    "{path} names its image encoder in config.json, mm_vision_tower = {named!r}, and it is not here: "
    "{error}. Name its folder there or by --visual-encoder": (
        "{path} 的 config.json 以 mm_vision_tower = {named!r} 指定图像编码器，但此处没有：{error}。"
        "请在该文件中或用 --visual-encoder 给出其目录"
    ),
    "{path} has its own image encoder: leave out the one that you name, {encoder}": (
        "{path} 自带图像编码器：请去掉您指定的 {encoder}"
    ),
    "The adapter {folder} has weights beside it, {file}, as adapters of the package llava: make one "
    "model of all with xtuner convert merge {base} {folder} OUT": (
        "适配器 {folder} 旁边另有权重 {file}，是 llava 软件包的适配器："
        "请用 xtuner convert merge {base} {folder} OUT 合并成一个模型"
    ),
    "The image encoder's drop_path_rate = {rate} is not applied: its layers all run": (
        "不应用图像编码器的 drop_path_rate = {rate}：它的各层都会运行"
    ),
    "an answer has an image, which a prompt template cannot write": ("回答中有图像，提示模板无法写出"),
    "Turns are written as InternVL's own code writes them, without line breaks between them, "
    "after the system text {system!r}": (
        "各轮对话按 InternVL 自己代码的写法：轮次之间没有换行，位于系统文本 {system!r} 之后"
    ),
    "InternVL_V1_5_Dataset.{name} has {count} values, and data_paths {files}: give one for each file": (
        "InternVL_V1_5_Dataset.{name} 有 {count} 个值，而 data_paths 有 {files} 个：请为每个文件给出一个"
    ),
    # data
    "LLaVADataset needs rows_per_image, if image_processor is not a dict that names a folder": (
        "如果 image_processor 不是写明文件夹的 dict，LLaVADataset 需要 rows_per_image"
    ),
    "LLaVADataset needs data_path: the file of conversations": "LLaVADataset 需要 data_path：对话文件",
    "{path} is not a file of xtuner preprocess refcoco: {error!r}": (
        "{path} 不是 xtuner preprocess refcoco 写出的文件：{error!r}"
    ),
    "%s: %s: its conversation is not trained": "%s：%s：该对话不参与训练",
    "data: %d rows are left out because of images: %s": "数据：%d 行因其图像被略去：%s",
    "data: %d rows have more images than <image> in the text, or a cut before one: %s": (
        "数据：%d 行的图像多于文本中的 <image>，或在其之前被截断：%s"
    ),
    "the text has {count} <image>, and the row {images} images": (
        "文本中有 {count} 个 <image>，而该行有 {images} 张图像"
    ),
    "a conversation has {longest} tokens with its images, more than max_packed_length = {limit}": (
        "一段对话连同图像有 {longest} 个 token，超过 max_packed_length = {limit}"
    ),
    # models of transformers by their processor
    "VisionLanguageFinetune does not know how models of the family '{family}' take images: use "
    "SupervisedFinetune to train it on text": (
        "VisionLanguageFinetune 不知道 '{family}' 系列的模型如何接收图像：请用 SupervisedFinetune 以文本训练"
    ),
    "Parts that are trained: {parts}": "训练的部分：{parts}",
    "vision": "视觉编码器",
    "projector": "projector",
    "language model": "语言模型",
    "sequence_parallel_size: samples with images are not divided: set it to 1": (
        "sequence_parallel_size：带图像的样本不能切分：请设为 1"
    ),
    "the chat template writes {count} placeholders {token}, and the conversation has {images} images": (
        "对话模板写出 {count} 个占位符 {token}，而对话有 {images} 张图像"
    ),
    "its images have {count} tokens, not {num_tokens}: they changed since they were tokenised": (
        "其图像有 {count} 个 token，而不是 {num_tokens} 个：图像在分词之后有改动"
    ),
    "the processor writes the images of a conversation in ways that are not known: {texts}": (
        "processor 书写同一对话中各图像的方式未知：{texts}"
    ),
    "the processor refuses images of {sizes}: {error}": "processor 不接受大小为 {sizes} 的图像：{error}",
    "a message has an image part without an image": "消息中有图像部分，却没有图像",
    "the row has {images} images, and its messages have parts for {count}": (
        "该行有 {images} 张图像，而其消息中有 {count} 个图像部分"
    ),
    "the row has images, and its conversation no question for them": (
        "该行有图像，但其对话中没有可放图像的问题"
    ),
    "data: %d conversations are left out, because max_length = %d cuts an image: %s": (
        "数据：略去 %d 段对话，因为 max_length = %d 会切断图像：%s"
    ),
    "max_length = {max_length} cuts an image of every conversation: raise it": (
        "max_length = {max_length} 会切断每段对话的图像：请调大"
    ),
    "{path} has no processor of transformers: its family is {family!r}": (
        "{path} 没有 transformers 的 processor：它属于 {family!r} 系列"
    ),
    "the processor of {path} needs a package that is missing: {command}": (
        "{path} 的 processor 缺少所需的软件包：{command}"
    ),
    "the processor of {path} cannot be loaded: {error}": "无法加载 {path} 的 processor：{error}",
    # chat
    "%s answers to texts only, without images: %s": "%s 只回答文本，不读取图像：%s",
    "the processor of the model cannot read an image: {kind}: {error}": (
        "模型的 processor 无法读取图像：{kind}：{error}"
    ),
    "the image has {count} tokens and {rows} rows of features": "图像有 {count} 个 token，但特征有 {rows} 行",
    "an image has {count} tokens: at most {most} are possible": "图像有 {count} 个 token：最多 {most} 个",
    "the chat template writes {count} images, and the dialogue has {images}": (
        "chat template 写出 {count} 张图像，而对话有 {images} 张"
    ),
    "the tokenizer does not write {token} as one token, so an image has no place in the text": (
        "tokenizer 没有把 {token} 写成一个 token，因此图像在文本中没有位置"
    ),
}
