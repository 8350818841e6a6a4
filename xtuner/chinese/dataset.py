"""What is said of data: its files, rows, formats and templates. `%` slots keep their order."""

from __future__ import annotations

DATA = {
    "data: ": "数据：",
    "{count:,} rows": "{count:,} 条",
    "{count:,} dropped:{why}": "丢弃 {count:,} 条：{why}",
    " {count:,} with {reason} ({names}{more})": " {count:,} 条{reason}（{names}{more}）",
    "no conversation in them": "没有对话内容",
    "a prompt that alone fills max_length": "仅提示部分就占满 max_length",
    "nothing to train on": "没有可训练的内容",
    "a fault in them": "有错误",
    "{cut:,} cut at {max_length:,} tokens ({cut_tokens:,} tokens left out)": (
        "{cut:,} 条在 {max_length:,} 个 token 处截断（略去 {cut_tokens:,} 个 token）"
    ),
    "{continued:,} continue in further samples": "{continued:,} 条续到后面的样本",
    "{tokens:,} tokens, {share:.1%} supervised": "{tokens:,} 个 token，其中 {share:.1%} 参与训练",
    "{samples:,} samples in {packs:,} items{filled}": "{samples:,} 个样本拼成 {packs:,} 行{filled}",
    ", {fill:.1%} full": "，填充率 {fill:.1%}",
    "; and {count:,} more": "；另有 {count:,} 条",
    ". All are listed in {report}; strict = True makes them an error": (
        "。全部列在 {report}；设 strict = True 则视为错误"
    ),
    "data: {count:,} rows left out as they cannot be read: {names}{more}{where}": (
        "数据：{count:,} 条无法读取，已略去：{names}{more}{where}"
    ),
    "data: {count:,} rows have an empty answer, of which only the end is supervised: the model learns to say "
    "nothing ({names}{more})": (
        "数据：{count:,} 条的回答为空，只训练了结束标记，模型会学成什么也不说（{names}{more}）"
    ),
    "data: the tokenizer's chat template leaves out {kind} in {count:,} rows ({names}{more}){cure}": (
        "数据：tokenizer 的对话模板略去了 {kind}，涉及 {count:,} 条（{names}{more}）{cure}"
    ),
}

FAULTS = {
    "the chat template puts no special token at the end of an answer: the model does not learn when to "
    "stop": ("对话模板没有在回答末尾放特殊 token：模型学不会何时停止"),
    "{folder} cannot be written to: using {other}; set XTUNER_CACHE to choose another folder": (
        "无法写入 {folder}，改用 {other}；可设 XTUNER_CACHE 选择其他目录"
    ),
    "{what} cannot be written to {parent}: {error}. Free some space there, or set XTUNER_CACHE to "
    "another folder": ("{what}无法写入 {parent}：{error}。请在那里腾出空间，或设 XTUNER_CACHE 使用其他目录"),
    "prompt_template = 'auto' takes the tokenizer's own chat_template, and this tokenizer has none: "
    "name a template instead, such as prompt_template = PROMPT_TEMPLATE.default": (
        "prompt_template = 'auto' 使用 tokenizer 自带的 chat_template，而这个 tokenizer 没有：请指定一个模"
        "板，例如 prompt_template = PROMPT_TEMPLATE.default"
    ),
    "the tokenizer's chat template does not show which parts of the text are answers: name a prompt "
    "template instead of 'auto'": (
        "从 tokenizer 的对话模板看不出文本的哪些部分是回答：请指定一个模板来代替 'auto'"
    ),
    "the tokenizer's chat template refuses this conversation of the roles {roles}: {error}": (
        "tokenizer 的对话模板不接受角色为 {roles} 的这段对话：{error}"
    ),
    "the chat template marks {marked} parts as generated and the conversation has {answers} answers, "
    "so those to leave out of training cannot be found": (
        "对话模板标记了 {marked} 处生成内容，而对话有 {answers} 个回答，无法确定其中哪些不参与训练"
    ),
    "ConcatDataset needs at least one data set: datasets=[...]": (
        "ConcatDataset 至少需要一个数据集：datasets=[...]"
    ),
    "ConcatDataset cannot count the items of data sets with streaming = True: mix them with "
    "dict(type=MixedStream, datasets=[...], weights=[...]) of xtuner.dataset": (
        "ConcatDataset 无法统计 streaming = True 的数据集的条目数：请用 xtuner.dataset 的 "
        "dict(type=MixedStream, datasets=[...], weights=[...]) 混合它们"
    ),
    "items with images cannot be packed: leave out ConcatDataset(max_length=...)": (
        "含图像的条目不能打包：请去掉 ConcatDataset(max_length=...)"
    ),
    "an item of {longest:,} tokens does not fit into ConcatDataset(max_length={max_length}): give the "
    "data sets the same max_length and pack_to_max_length = False": (
        "有 {longest:,} 个 token 的条目放不进 ConcatDataset(max_length={max_length})：请让各数据集用同样的 "
        "max_length 和 pack_to_max_length = False"
    ),
    "ConcatDataset got {what}: give one of weights, epochs and num_samples, with one value for each of "
    "the data sets; only weights go with the number of all": (
        "ConcatDataset 得到 {what}：weights、epochs、num_samples 只能给出一个，且每个数据集对应一个值；只"
        "有 weights 可与总数一起使用"
    ),
    "ConcatDataset.{name} is {values}: it needs {count} numbers from 0 up, one for each data set": (
        "ConcatDataset.{name} 为 {values}：需要 {count} 个不小于 0 的数，每个数据集一个"
    ),
    "ConcatDataset cannot take items of an empty data set": "ConcatDataset 无法从空数据集中取条目",
    "only one question can be encoded without its answer, and the conversation has {count} turns": (
        "不含回答时只能编码一个问题，而对话有 {count} 轮"
    ),
    "{name} has half of a character at position {start}; write the whole character": (
        "{name} 在位置 {start} 有半个字符，请写完整"
    ),
    "the tokenizer has no end-of-sequence token to end an answer with: give it one, such as tokenizer "
    "= dict(..., eos_token='<|im_end|>')": (
        "tokenizer 没有用来结束回答的序列结束 token：请给它一个，例如 tokenizer = dict(..., "
        "eos_token='<|im_end|>')"
    ),
    "rows have a system text, but without a template_map_fn it does not reach the model": (
        "数据中有 system 文本，但没有 template_map_fn，模型看不到它"
    ),
    "rows offer tools to the model, which only the tokenizer's own chat template shows: set "
    "prompt_template = PROMPT_TEMPLATE.auto for that": (
        "数据中为模型提供了工具，只有 tokenizer 自带的对话模板会写出它们：请设 prompt_template = "
        "PROMPT_TEMPLATE.auto"
    ),
    "{name} failed: {kind}: {error}": "{name} 失败：{kind}: {error}",
    "{argument} {name} must return a dict; it returned {kind}": (
        "{argument} {name} 应返回 dict，却返回了 {kind}"
    ),
    "packed samples do not attend to each other, with use_varlen_attn or without": (
        "打包在一起的样本互不可见，与 use_varlen_attn 无关"
    ),
    "process_hf_dataset needs a tokenizer, unless do_dataset_tokenization = False": (
        "process_hf_dataset 需要 tokenizer，除非 do_dataset_tokenization = False"
    ),
    "pack_to_max_length needs max_length: set it, or pack_to_max_length = False": (
        "pack_to_max_length 需要 max_length：请设定它，或设 pack_to_max_length = False"
    ),
    "max_length is {max_length}: it must be at least 1": "max_length 为 {max_length}，应不小于 1",
    "rows cannot be held out with streaming = True, which does not count them: give val_dataloader a "
    "dataset of its own instead of held_out": (
        "streaming = True 不统计行数，因此无法留出一部分：请给 val_dataloader 自己的 dataset，不用 held_out"
    ),
    "rows that are tokenised already are not streamed: leave out streaming = True": (
        "已经是 token 的数据不能流式读取：请去掉 streaming = True"
    ),
    "max_dataset_length picks from all rows, which streaming = True does not count: leave out one": (
        "max_dataset_length 要从所有行中挑选，而 streaming = True 不统计行数：请去掉其中一个"
    ),
    "buffer_size is {buffer_size}: it must be at least 1 row": "buffer_size 为 {buffer_size}，应不小于 1 行",
    "{argument} = {given!r} cannot be found: {error}.{hint}": (
        "找不到 {argument} = {given!r}：{error}。{hint}"
    ),
    "{argument} must be a function of one row; it is {given!r:.100}": (
        "{argument} 应为处理一行数据的函数，现在是 {given!r:.100}"
    ),
    "the tokens are not cached: a map function uses {error}, which may change": (
        "token 不会缓存：映射函数用到 {error}，它可能改变"
    ),
    "the data is empty: there are no rows in {names}": "数据为空：{names} 中没有数据行",
    "none of the {rows:,} rows has anything to train on:{dropped}{cure}": (
        "{rows:,} 条中没有一条可训练：{dropped}{cure}"
    ),
    "a tokenised sample has {longest} tokens, more than max_length = {max_length}": (
        "一个样本有 {longest} 个 token，超过 max_length = {max_length}"
    ),
    "There is no image {path}": "没有图像 {path}",
    "the image {path} cannot be read: {error}": "无法读取图像 {path}：{error}",
    "{name} is too large: images may have {MAX_PIXELS:,} pixels": "{name} 太大：图像最多 {MAX_PIXELS:,} 像素",
    "{name} is not an image: {formats} can be read": "{name} 不是图像：可读取 {formats}",
    "the image {name} is damaged or cut off: {error}": "图像 {name} 已损坏或不完整：{error}",
    "{name} is too large: {width} x {height} pixels; at most {MAX_PIXELS:,} are allowed, {MAX_SIDE:,} "
    "on a side, and sides of at most 1 to {MAX_RATIO}": (
        "{name} 太大：{width} x {height} 像素；最多 {MAX_PIXELS:,} 像素，每边最多 {MAX_SIDE:,}，边长之比最"
        "多 1 比 {MAX_RATIO}"
    ),
    "data: %s of %s samples have less than min_length = %s tokens": (
        "数据：%s 个样本（共 %s 个）少于 min_length = %s 个 token"
    ),
    "processed_dataset_dict_path is not used any more: tokens are cached by the content of their "
    "files; give folder='...' alone": (
        "processed_dataset_dict_path 已不再使用：token 按文件内容缓存；只需给出 folder='...'"
    ),
    "load_intern_repo_untokenized_dataset needs folder='...'": (
        "load_intern_repo_untokenized_dataset 需要 folder='...'"
    ),
    "build_packed_dataset packs the data of load_intern_repo_tokenized_dataset or "
    "load_intern_repo_untokenized_dataset; it got {kind}": (
        "build_packed_dataset 打包 load_intern_repo_tokenized_dataset 或 "
        "load_intern_repo_untokenized_dataset 的数据，却得到 {kind}"
    ),
    "there is no data folder {root} (looked for {full_path})": "没有数据目录 {root}（找的是 {full_path}）",
    "the folder {root} holds no files that end with {file_type!r}": (
        "目录 {root} 中没有以 {file_type!r} 结尾的文件"
    ),
    "there is no file data_order_path = {order}": "没有文件 data_order_path = {order}",
    "{order} names {name}, which is not in {root}": "{order} 中写了 {name}，它不在 {root} 中",
    "{order} names no file": "{order} 中没有文件名",
    "the tokenised data has {rows:,} rows and no supervised token in those of min_length = "
    "{min_length} and more: nothing to learn from": (
        "已分词的数据有 {rows:,} 条，其中不短于 min_length = {min_length} 的没有参与训练的 token：没有可学"
        "的内容"
    ),
    "{place}: a row must be {{'tokens': [...]}} with at least one id": (
        "{place}：一行应为 {{'tokens': [...]}}，且至少有一个 id"
    ),
    "dataset_map_fn = 'auto': fields are renamed: {renamed}": (
        "dataset_map_fn = 'auto'：重命名字段：{renamed}"
    ),
    "the field 'history' must be a list of [question, answer] pairs: {history!r:.80}": (
        "字段 'history' 应为 [问题, 回答] 的列表：{history!r:.80}"
    ),
    "the row has no field {field!r}; its fields are {names}.{hint}": (
        "数据行没有字段 {field!r}；它的字段有 {names}。{hint}"
    ),
    "the field {field!r} is null; it must be text": "字段 {field!r} 为 null，应为文本",
    "the field {field!r} is too large a number: write it as text": "字段 {field!r} 的数太大：请写成文本",
    "the field {field!r} is of type {kind}; it must be text: {value!r:.80}": (
        "字段 {field!r} 的类型为 {kind}，应为文本：{value!r:.80}"
    ),
    "the field {field!r} is of type {kind}; it must be a list: {value!r:.80}": (
        "字段 {field!r} 的类型为 {kind}，应为列表：{value!r:.80}"
    ),
    "{field}[{number}] is of type {kind}; it must be an object: {item!r:.80}": (
        "{field}[{number}] 的类型为 {kind}，应为对象：{item!r:.80}"
    ),
    "the field 'train_detail' marks parts of an answer, and answers are trained whole: split the "
    'answer, or mark all of it with "train": true or false': (
        "字段 'train_detail' 标记回答的一部分，而回答只能整体训练：请拆分回答，或用 \"train\": true 或 false "
        "标记整个回答"
    ),
    "the field {name!r} holds weights of answers, such as {value}: every weight above 0 counts as 1": (
        "字段 {name!r} 是回答的权重，例如 {value}：大于 0 的权重一律按 1 计"
    ),
    "the field {name!r} is {value!r:.40}: write true or false, or a weight of 0 or 1": (
        "字段 {name!r} 为 {value!r:.40}：请写 true 或 false，或权重 0 或 1"
    ),
    "a message is from {speaker!r}; known are 'system', 'user' and 'assistant'": (
        "消息来自 {speaker!r}；已知的有 'system'、'user' 和 'assistant'"
    ),
    "conversations end with an unanswered question: it is left out": "有对话以没有回答的问题结尾：略去该问题",
    "conversations begin with words of the assistant: only the tokenizer's own chat template "
    "(prompt_template = 'auto') keeps them": (
        "有对话以助手的话开头：只有 tokenizer 自带的对话模板（prompt_template = 'auto'）会保留它们"
    ),
    "a message has the role {name!r}; known roles are {roles}": "消息的角色为 {name!r}；已知角色有 {roles}",
    "a message's content has a part that is not text: {part!r:.80}": (
        "消息的 content 中有一部分不是文本：{part!r:.80}"
    ),
    "the field {name!r} is text, but not JSON: {error}": "字段 {name!r} 是文本，但不是 JSON：{error}",
    "the field {name!r} must be a list of objects; it is {tools!r:.80}": (
        "字段 {name!r} 应为对象的列表，现在是 {tools!r:.80}"
    ),
    "thinking is written as <think>...</think> before an answer": (
        "思考内容以 <think>...</think> 写在回答之前"
    ),
    "a tool call needs function.name: {call!r:.80}": "工具调用需要 function.name：{call!r:.80}",
    "a message is from {speaker!r}; known are {names}.{hint}": (
        "消息来自 {speaker!r}；已知的有 {names}。{hint}"
    ),
    "a function_call is not JSON: {error}: {words!r:.80}": "function_call 不是 JSON：{error}：{words!r:.80}",
    "a function_call needs a name: {call!r:.80}": "function_call 需要 name：{call!r:.80}",
    "consecutive answers become one answer in a prompt template, but only some of these are to be "
    "trained: set prompt_template = PROMPT_TEMPLATE.auto, which writes each of them": (
        "连续的回答在模板中合为一个，而其中只有一部分要训练：请设 prompt_template = PROMPT_TEMPLATE.auto，"
        "它会分别写出"
    ),
    "prompt template {template!r} cannot be found: {error}": "找不到对话模板 {template!r}：{error}",
    "a prompt template is a dict with INSTRUCTION and, where needed, SYSTEM, SUFFIX, SUFFIX_AS_EOS, "
    "SEP and STOP_WORDS; got {template!r:.200}": (
        "对话模板是一个 dict，含 INSTRUCTION，需要时还有 SYSTEM、SUFFIX、SUFFIX_AS_EOS、SEP 和 STOP_WORDS；"
        "现在是 {template!r:.200}"
    ),
    "a message is from {speaker!r}; known are 'human' and 'gpt'": (
        "消息来自 {speaker!r}；已知的有 'human' 和 'gpt'"
    ),
    "MixedStream.datasets needs one or more of process_hf_dataset with streaming = True; others are "
    "mixed by ConcatDataset": (
        "MixedStream.datasets 需要一个或多个 streaming = True 的 process_hf_dataset；其他的用 "
        "ConcatDataset 混合"
    ),
    "MixedStream.weights is {weights}: it needs {count} numbers above 0, one for each data set": (
        "MixedStream.weights 为 {weights}：需要 {count} 个大于 0 的数，每个数据集一个"
    ),
    "loading {name!r} from ModelScope needs the package modelscope ({error}): {command}, or give the "
    "rows as a file with dataset = dict(type=load_dataset, path='data.json')": (
        "从 ModelScope 加载 {name!r} 需要 modelscope 软件包（{error}）：{command}，或用 dataset = "
        "dict(type=load_dataset, path='data.json') 以文件给出数据"
    ),
    "there is no data file {path} (looked for {full_path})": "没有数据文件 {path}（找的是 {full_path}）",
    "data: %s conversations; %s turns beyond max_length = %s left out; %s conversations dropped; %s "
    "tokens, %.1f%% supervised": (
        "数据：%s 段对话；略去超出 max_length 的 %s 轮（max_length = %s）；丢弃 %s 段对话；%s 个 token，其"
        "中 %.1f%% 参与训练"
    ),
    "none of the {rows:,} conversations of {name} has a turn within {max_length} tokens": (
        "{name} 的 {rows:,} 段对话中，没有一轮能放进 {max_length} 个 token"
    ),
    "the field 'chat' is not an object of turns": "字段 'chat' 不是由各轮组成的对象",
    "chat.{name} is not an object with {parts}: {turn!r:.80}": (
        "chat.{name} 不是含 {parts} 的对象：{turn!r:.80}"
    ),
    "chat.{name} has {part!r}; a turn has {parts}": "chat.{name} 有 {part!r}；一轮对话有 {parts}",
    "{name}: damaged or cut off: {reason}": "{name}：已损坏或不完整：{reason}",
    "{name}: .zst needs the package zstandard: {command}": "{name}：.zst 需要 zstandard 软件包：{command}",
    "downloading %s": "正在下载 %s",
    "{address} cannot be downloaded: {reason}": "{address} 无法下载：{reason}",
    "{address} cannot be reached: the copy of an earlier run is used ({reason})": (
        "连不上 {address}：改用先前下载的副本（{reason}）"
    ),
    "{address} is a web page, not a data file: give the address of the file itself": (
        "{address} 是网页，不是数据文件：请给出文件本身的地址"
    ),
    "{address} needs {cure}": "{address} 需要 {cure}",
    "{address}: the protocol {protocol!r} is not known; download the file and give its path": (
        "{address}：不认识协议 {protocol!r}；请下载文件并写出它的路径"
    ),
    "{name} changed during the run, from {old:,} to {new:,} bytes: restore it and continue with "
    "--resume, or start a new run": (
        "{name} 在训练期间改变了，从 {old:,} 字节变为 {new:,} 字节：请恢复它并用 --resume 继续，或重新训练"
    ),
    "{name} was written to during the run; its size is the same as before": (
        "{name} 在训练期间被写过；大小没有变"
    ),
    "{name} changed while it was read: start again": "{name} 在读取期间改变了：请重新开始",
    "{place}: a row must be an object such as {{...}}; this is {value:.60}": (
        "{place}：一行应为 {{...}} 这样的对象，而这里是 {value:.60}"
    ),
    "the rows of {name} are those under {key!r}{left_out}": "{name} 的数据行是 {key!r} 之下的那些{left_out}",
    "{name} line {line}: broken JSON: {rule}, but here is {found}": (
        "{name} 第 {line} 行：JSON 有误：{rule}，这里却是 {found}"
    ),
    "{name} line {line} column {column}: broken JSON: {msg}": (
        "{name} 第 {line} 行第 {column} 列：JSON 有误：{msg}"
    ),
    "{name} line {line}: the JSON is nested too deeply": "{name} 第 {line} 行：JSON 嵌套过深",
    "{name} line {line}: a number has more than {digits:,} digits, which Python does not read": (
        "{name} 第 {line} 行：有一个数超过 {digits:,} 位，Python 无法读取"
    ),
    "{path} does not end like a data file ({endings}, ...): give the address of the file itself, or "
    "download it and give its path": (
        "{path} 的结尾不像数据文件（{endings} 等）：请给出文件本身的地址，或下载后写出它的路径"
    ),
    "{path}: not a folder of save_to_disk, or a damaged one: {error}": (
        "{path}：不是 save_to_disk 的目录，或已损坏：{error}"
    ),
    "there is no split {split!r}; the files have {names}": "没有 split {split!r}；文件中有 {names}",
    "{name} is a pointer of git-lfs, not the data: git lfs pull downloads it": (
        "{name} 是 git-lfs 的指针，不是数据本身：用 git lfs pull 下载"
    ),
    "files of different kinds ({kinds}) cannot be read together: {path}, ...": (
        "不同类型的文件（{kinds}）不能一起读取：{path} 等"
    ),
    "{path}: data files may be {endings}; for others give the format by name, such as "
    "load_dataset(path='json', data_files='{name}')": (
        "{path}：数据文件可以是 {endings}；其他文件请写出格式名，例如 load_dataset(path='json', "
        "data_files='{name}')"
    ),
    "there is no data set {path!r}, neither here nor on the hub: {error}": (
        "本机和 hub 上都没有数据集 {path!r}：{error}"
    ),
    "{path!r} cannot be read: {error}": "无法读取 {path!r}：{error}",
    "the data has no split {split!r}; it has {names}.{hint}": (
        "数据没有 split {split!r}；它有 {names}。{hint}"
    ),
    "rows must be a list, a data set or a dict of splits, not {kind}; for a file write dataset = "
    "dict(type=load_dataset, path='data.json')": (
        "数据应为列表、数据集或按 split 组成的 dict，而不是 {kind}；文件请写 dataset = "
        "dict(type=load_dataset, path='data.json')"
    ),
    "{kind} gives its rows only in sequence, so a run cannot be resumed: leave streaming=True out of "
    "load_dataset, and set it in process_hf_dataset": (
        "{kind} 只能逐条给出数据，中断后无法继续训练：请从 load_dataset 中去掉 streaming=True，改在 "
        "process_hf_dataset 中设定"
    ),
    "none of {count} rows can be held out for validation: they are all the same": (
        "{count} 条数据都相同，无法留出一部分用于验证"
    ),
    "{name}: not a Parquet file, or a damaged one: {error}": "{name}：不是 Parquet 文件，或已损坏：{error}",
    "{name} line {line}: broken CSV: {error}": "{name} 第 {line} 行：CSV 有误：{error}",
    "cells of {name} are separated by {separator!r}": "{name} 的单元格以 {separator!r} 分隔",
    "{name}: reading .xlsx needs openpyxl: {command}, or save the sheet as .csv": (
        "{name}：读取 .xlsx 需要 openpyxl：{command}，或把工作表另存为 .csv"
    ),
    "{name}: not a workbook, or a damaged one: {error}": "{name}：不是工作簿，或已损坏：{error}",
    "length_property is {length_property!r}: it must be 'length' or 'modality_length'": (
        "length_property 为 {length_property!r}，应为 'length' 或 'modality_length'"
    ),
    "more than {limit:,} rows in one data set: split it, or set streaming = True": (
        "一个数据集超过 {limit:,} 条：请拆分，或设 streaming = True"
    ),
    "{who} is preparing the same data: waiting for it": "{who}正在准备同样的数据：等待它完成",
    "the cached tokens in {folder} are damaged ({name}): they are made again": (
        "{folder} 中缓存的 token 已损坏（{name}）：重新生成"
    ),
    "{path} is {kind}, which does not show its samples": "{path} 为 {kind}，它不能展示样本",
    "{path} has no tokenizer to decode its tokens, nor has the config: add tokenizer = "
    "dict(type=AutoTokenizer.from_pretrained, ...)": (
        "{path} 和配置都没有用来解码的 tokenizer：请加上 tokenizer = "
        "dict(type=AutoTokenizer.from_pretrained, ...)"
    ),
    "the config has no {path}: there is no data in it to look at": "配置中没有 {path}：没有可查看的数据",
    "{path} is not a dict(type=...): there is no data in it to look at": (
        "{path} 不是 dict(type=...)：没有可查看的数据"
    ),
    "the data is streamed: only its first rows are shown, as many as buffer_size says": (
        "数据是流式读取的：只展示前面的行，数量为 buffer_size"
    ),
    "there is no item {index}: the data has {count:,}, counted from 0": (
        "没有条目 {index}：数据共 {count:,} 条，从 0 开始计数"
    ),
    "the tokenised data has {rows} rows and no supervised token: nothing to learn from": (
        "已分词的数据有 {rows} 条，但没有参与训练的 token：没有可学的内容"
    ),
    "input_ids and labels must have equal lengths, and a label must be its token's id or {IGNORE_INDEX}": (
        "input_ids 与 labels 应等长，label 应为该 token 的 id 或 {IGNORE_INDEX}"
    ),
    "cumulative_len must rise from 0 to {count}; it is {offsets!r:.80}": (
        "cumulative_len 应从 0 递增到 {count}，现在是 {offsets!r:.80}"
    ),
    "a template has the placeholder {{{name}}}, and only {names} can be filled in there.{hint} Write "
    "braces that are meant as text twice, {{{{...}}}}: {text!r}": (
        "模板中有占位符 {{{name}}}，而这里只能填入 {names}。{hint} 若花括号是文本本身，请写两遍 "
        "{{{{...}}}}：{text!r}"
    ),
    "PROMPT_TEMPLATE.auto is the tokenizer's own chat_template: it writes whole conversations, not "
    "single turns": ("PROMPT_TEMPLATE.auto 是 tokenizer 自带的 chat_template：它写出整段对话，不能只写一轮"),
    "a prompt template needs INSTRUCTION; this one has {names}": (
        "对话模板需要 INSTRUCTION；这个模板有 {names}"
    ),
    "the prompt template has no SYSTEM part: the system text is put before the instruction, on a line "
    "of its own": ("对话模板没有 SYSTEM 部分：system 文本单独一行放在指令之前"),
    "{place}: not valid UTF-8. Convert the file, from {encoding}: {command}": (
        "{place}：不是有效的 UTF-8。请从 {encoding} 转换文件：{command}"
    ),
    "{place}: not valid UTF-8. Convert the file, for example from {encoding}: {command}": (
        "{place}：不是有效的 UTF-8。请转换文件，例如从 {encoding}：{command}"
    ),
    " byte {byte}": "，字节 {byte}",
    "{name} line {line}": "{name} 第 {line} 行",
    "{name} row {line}": "{name} 第 {line} 条",
    ", row {number}": "，第 {number} 条",
    "row {number}": "数据行 {number}",
    " (counted from 0)": "（从 0 计）",
    "{place} (row {number})": "{place}（数据行 {number}）",
    "{name} line {line}: {cells} cells, but {names} names in line 1": (
        "{name} 第 {line} 行：有 {cells} 个单元格，而第 1 行有 {names} 个列名"
    ),
    "a comma or ] must follow a row": "一条数据之后应为逗号或 ]",
    "nothing may follow the list of rows": "数据列表之后不应有内容",
    "the end of the file": "文件结尾",
    "; those under {names} are left out": "；略去 {names} 之下的",
    "the package {package}: {command}": "{package} 软件包：{command}",
    "a copy of the data": "数据的副本",
    "the tokenised data": "已分词的数据",
    "another process": "另一个进程",
    "there is no data set {path!r} on this machine, and the hub cannot be reached: give the path of a file, "
    "such as load_dataset(path='data.json'), or fetch it where there is a network": (
        "本机没有数据集 {path!r}，也连不上 hub：请给出文件路径，例如 load_dataset(path='data.json')，"
        "或在有网络的地方下载"
    ),
    "num_samples as one number without weights": "没有 weights 而为单个数的 num_samples",
    " ({count:,} of {rows:,} rows have a fault)": "（{rows:,} 条中有 {count:,} 条有错误）",
    " ({faults} of the first {count} rows have a fault)": "（前 {count} 条中有 {faults} 条有错误）",
    " The rows are in conversation form already: set dataset_map_fn = None": (
        " 数据已经是 conversation 格式：请设 dataset_map_fn = None"
    ),
    " A dataset_map_fn must return {'conversation': [...]}": (
        " dataset_map_fn 应返回 {'conversation': [...]}"
    ),
    " Give a dataset_map_fn that makes {'conversation': [...]} of a row": (
        " 请给出 dataset_map_fn，把一条数据变成 {'conversation': [...]}"
    ),
    " Its fields fit dataset_map_fn = {names}": " 它的字段适用 dataset_map_fn = {names}",
    ". max_length is {max_length}: raise it": "。max_length 为 {max_length}：请增大它",
    "dataset_map_fn = 'auto' knows no format with the fields {names}.{nearest} Rename the fields with "
    "rename_maps, or give a dataset_map_fn that makes {{'conversation': [...]}} of a row": (
        "dataset_map_fn = 'auto' 不认识含字段 {names} 的格式。{nearest}请用 rename_maps 重命名字段，"
        "或给出 dataset_map_fn，把一条数据变成 {{'conversation': [...]}}"
    ),
    " Nearest: {formats}.": "最接近的：{formats}。",
    "(none)": "（无）",
    " (lacks {names})": "（缺少 {names}）",
    " (needs {also})": "（需要{also}）",
    "reader {reader} of {readers} gets no row of {names}: use fewer processes or workers": (
        "第 {reader} 个读取者（共 {readers} 个）分不到 {names} 的数据：请减少进程或 worker"
    ),
    "none of the {rows:,} rows has anything to train on in {names}": (
        "{names} 的 {rows:,} 条数据中没有一条可训练"
    ),
    "the data is empty: there are no rows in its files": "数据为空：文件中没有数据行",
    "; one_sample_per_turn = True trains it": "；设 one_sample_per_turn = True 则训练它",
    "tokenising": "分词",
    "{done} rows  {rows:,.0f} rows/s  {tokens} tokens/s": "{done} 条  {rows:,.0f} 条/秒  {tokens} token/秒",
    "{done} samples  {rows:,.0f} samples/s  {tokens} tokens/s": (
        "{done} 个样本  {rows:,.0f} 个/秒  {tokens} token/秒"
    ),
    "  {time} left": "  剩余 {time}",
    "the file ends within a frame": "文件在一帧中间结束",
    "the connection ended {left:,} bytes before the end of the file": "连接在距文件结尾 {left:,} 字节处中断",
    "no turn that fits into max_length": "没有一轮能放进 max_length",
    "prompt template": "对话模板",
    "system template": "系统模板",
    # what a chat template leaves out
    "thinking": "思考内容",
    "thinking of earlier answers": "先前回答的思考内容",
    "a system text": "system 文本",
    "a question": "提问",
    "the result of a tool": "工具的结果",
    "a tool call": "工具调用",
    "the text beside a tool call": "工具调用旁的文本",
    "an answer": "回答",
    "the tokenizer's chat template takes one system text: all of a dialogue are put at its head": (
        "tokenizer 的对话模板只接受一段 system 文本：一段对话的所有 system 文本都放在开头"
    ),
    "the tokenizer's chat template takes speakers in turn: messages of one in a row are joined": (
        "tokenizer 的对话模板要求角色交替：同一角色的连续消息合为一条"
    ),
    "the tokenizer's chat template takes no system text: it is put at the head of the first question": (
        "tokenizer 的对话模板不接受 system 文本：放在第一个问题的开头"
    ),
}

# What tells a format, after the fields that it has.
_ALSO = {
    "of messages with 'role'": "其中是含 'role' 的消息",
    "with <|startofthink|> in them": "其中有 <|startofthink|>",
    "of messages with 'from' and 'value'": "其中是含 'from' 和 'value' 的消息",
    "of messages with 'role' and 'content'": "其中是含 'role' 和 'content' 的消息",
    "the first with CREATE TABLE in it": "第一个含 CREATE TABLE",
    "with ### Human: and ### Assistant: in it": "其中有 ### Human: 和 ### Assistant:",
    "a text to be learnt as a whole": "是整体学习的文本",
}
_REASONS = {
    "they have {fields}": "它有 {fields}",
    **{f"they have {{fields}}, {also}": f"它有 {{fields}}，{chinese}" for also, chinese in _ALSO.items()},
}
FORMATS = {
    **_ALSO,
    **_REASONS,
    **{
        f"dataset_map_fn = 'auto': rows are in the format {{name}}, as {reason}": (
            f"dataset_map_fn = 'auto'：数据为 {{name}} 格式，因为{chinese}"
        )
        for reason, chinese in _REASONS.items()
    },
}
_PAIRS = {
    "build_preference_dataset formats messages with the tokenizer's chat_template, but this "
    "tokenizer has none: give it one, such as tokenizer = dict(..., chat_template=...)": (
        "build_preference_dataset 用 tokenizer 的 chat_template 排版消息，而此 tokenizer 没有：请给出，例如 "
        "tokenizer = dict(..., chat_template=...)"
    ),
    "data: %d pairs left out, because one of their answers is": "数据：%d 对因其中一个回答被略去而略去",
    "no row has two answers to train on": "没有一行有两个可训练的回答",
    "max_packed_length is {limit}, but the shortest pair has {length} tokens: raise it": (
        "max_packed_length 为 {limit}，而最短的一对有 {length} 个 token：请调大"
    ),
    "data: %d pairs of more than max_packed_length = %d tokens left out": (
        "数据：略去 %d 对，它们超过 max_packed_length = %d 个 token"
    ),
    "load_jsonl_dataset takes either data_files or data_dir: give one of them": (
        "load_jsonl_dataset 需要 data_files 或 data_dir 之一：请给出其中一个"
    ),
    "load_jsonl_dataset: no file of {folder} ends in {ending!r}": (
        "load_jsonl_dataset：{folder} 中没有以 {ending!r} 结尾的文件"
    ),
    "{path} is not set: items are shuffled (DefaultSampler)": "未设置 {path}：数据打乱顺序（DefaultSampler）",
}

DATASET = {**_PAIRS, **DATA, **FAULTS, **FORMATS}
