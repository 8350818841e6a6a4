"""Tokenised data: templates, packs, items. `%` slots keep their order."""

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
    "data: {count:,} rows left out as unreadable: {names}{more}{where}": (
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
    "a tool call needs function.name: {call!r:.80}": "工具调用需要 function.name：{call!r:.80}",
    "MixedStream.datasets needs one or more of process_hf_dataset with streaming = True; others are "
    "mixed by ConcatDataset": (
        "MixedStream.datasets 需要一个或多个 streaming = True 的 process_hf_dataset；其他的用 "
        "ConcatDataset 混合"
    ),
    "MixedStream.weights is {weights}: it needs {count} numbers above 0, one for each data set": (
        "MixedStream.weights 为 {weights}：需要 {count} 个大于 0 的数，每个数据集一个"
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
    "{place} (row {number})": "{place}（数据行 {number}）",
    "the tokenised data": "已分词的数据",
    "another process": "另一个进程",
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

DATASET = {**DATA, **FAULTS}
