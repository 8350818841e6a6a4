"""Formats of rows, and what is wrong with their fields."""

FAULTS = {
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
    "dataset_map_fn = 'auto' knows no format with the fields {names}.{nearest} Rename the fields with "
    "rename_maps, or give a dataset_map_fn that makes {{'conversation': [...]}} of a row": (
        "dataset_map_fn = 'auto' 不认识含字段 {names} 的格式。{nearest}请用 rename_maps 重命名字段，"
        "或给出 dataset_map_fn，把一条数据变成 {{'conversation': [...]}}"
    ),
    " Nearest: {formats}.": "最接近的：{formats}。",
    "(none)": "（无）",
    " (lacks {names})": "（缺少 {names}）",
    " (needs {also})": "（需要{also}）",
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

MAP_FNS = {**FAULTS, **FORMATS}
