"""Data of compared answers."""

PREFERENCES = {
    "build_preference_dataset has is_dpo={is_dpo} and is_reward={is_reward}: set one of them, "
    "is_dpo = True for DPO and ORPO, is_reward = True for a reward model": (
        "build_preference_dataset 的 is_dpo={is_dpo}、is_reward={is_reward}：请只设置其一，"
        "DPO 和 ORPO 用 is_dpo = True，奖励模型用 is_reward = True"
    ),
    "reward_token_id is {token}, but the tokenizer has {size} tokens: take one that it has, or -1": (
        "reward_token_id 为 {token}，而 tokenizer 只有 {size} 个 token：请选用其中之一，或 -1"
    ),
    "{name} is {value!r}; use one of {known}.{hint}": "{name} 为 {value!r}；请用 {known} 之一。{hint}",
    "data: %d good answers, %d bad ones": "数据：%d 个好回答，%d 个坏回答",
    "data: in %d rows the rejected answer has the higher score (%s): are both swapped?": (
        "数据：%d 行中 rejected 的评分更高（%s）：是否写反了？"
    ),
    "data: in %d rows one answer is a text and the other is messages (%s)": (
        "数据：%d 行中一个回答是文本，另一个是消息（%s）"
    ),
    "data: %d pairs left out: the tokens of both answers are equal, as they are or up to max_length": (
        "数据：略去 %d 对：两个回答的 token 相同，或在 max_length 以内相同"
    ),
    "data: %d answers left out, as their mismatched ones are": "数据：略去 %d 个回答，因其错配的回答被略去",
    "all answers are to one prompt, so there is no other prompt's answer to estimate the KL "
    "divergence with: add rows with other prompts, or set with_kl = False": (
        "所有回答都针对同一个提示，没有其他提示的回答来估计 KL 散度："
        "请加入其他提示的数据，或设置 with_kl = False"
    ),
    "all {count:,} answers are labelled {kind}: training on labels needs good ones and bad ones": (
        "全部 {count:,} 个回答都标为{kind}：按标签训练需要好回答和坏回答"
    ),
    "good": "好",
    "bad": "坏",
    "answers that are all equal": "回答全部相同",
    "answers of which none is better than another": "回答不分优劣",
    "the row has one answer, and a preference takes two: build_unpaired_dataset takes single "
    "answers with labels (KTO)": (
        "该行只有一个回答，而偏好需要两个：build_unpaired_dataset 使用带标签的单个回答（KTO）"
    ),
    "the answers of the row have scores, not labels: build_unpaired_dataset needs to know "
    "which are good; give a dataset_map_fn that returns labels, true or false for each": (
        "该行的回答有评分而没有标签：build_unpaired_dataset 需要知道哪些是好的；"
        "请给出返回 labels 的 dataset_map_fn，每个回答为 true 或 false"
    ),
    "the row has {answers} answers and {count} values in {name!r}": (
        "该行有 {answers} 个回答，而 {name!r} 中有 {count} 个值"
    ),
    "the field 'answers' must be a list of answers, each a list of messages: {value!r:.80}": (
        "字段 'answers' 必须是回答的列表，每个回答是消息的列表：{value!r:.80}"
    ),
    "{name} has no message: it must hold an answer": "{name} 没有消息：其中必须有回答",
    "{name} ends with a message of {role!r}: an answer ends with one of 'assistant'": (
        "{name} 以 {role!r} 的消息结尾：回答应以 'assistant' 的消息结尾"
    ),
    "{name} has no answer to the messages that chosen and rejected have in common: both must "
    "begin with the same prompt and go on with an answer": (
        "{name} 在 chosen 与 rejected 的共同消息之后没有回答：两者必须以相同的提示开头，接着是回答"
    ),
    "answer {number} has no {name!r}, which other answers of the row have": (
        "第 {number} 个回答没有 {name!r}，而该行的其他回答有"
    ),
    "the score of an answer is {value!r:.40}; it must be a number": "回答的评分为 {value!r:.40}；必须是数字",
    "the label of an answer is {value!r:.40}: write true for a good one, false": (
        "回答的标签为 {value!r:.40}：好的写 true，坏的写 false"
    ),
    "answers have neither scores nor ranks: they are taken as ranked, the best first": (
        "回答既无评分也无名次：视为已排序，最好的在前"
    ),
    "orpo_dpo_mix_40k_map_fn: dialogues of chosen and rejected differ before the last message: "
    "both last messages follow the dialogue of chosen": (
        "orpo_dpo_mix_40k_map_fn：chosen 与 rejected 的对话在最后一条消息之前已不同："
        "两者的最后一条消息都接在 chosen 的对话之后"
    ),
    "ultrafeedback_map_fn: answers without a score are left out": "ultrafeedback_map_fn：略去没有评分的回答",
    "dataset_map_fn = 'auto': rows are in the form {name}, as they have {fields}": (
        "dataset_map_fn = 'auto'：数据为 {name} 格式，因为它有 {fields}"
    ),
    "dataset_map_fn = 'auto' knows no form of compared answers with the fields {names}: rows need "
    "'chosen' and 'rejected', or a list of 'answers' with 'scores', or 'completion' and 'label'": (
        "dataset_map_fn = 'auto' 不认识含字段 {names} 的偏好数据：每行需要 'chosen' 和 'rejected'，"
        "或 'answers' 列表与 'scores'，或 'completion' 与 'label'"
    ),
    # the stored reference
    "reference": "参考模型",
    "the log-probabilities of the reference": "参考模型的对数概率",
    "The log-probabilities of the reference are stored: %d samples": "参考模型的对数概率已存好：%d 个样本",
    "The reference computes the log-probabilities of %d samples, once; %d are stored": (
        "参考模型计算 %d 个样本的对数概率，只算一次；已存好 %d 个"
    ),
    "the reference gives {place} a log-probability of {value}: check its weights and precision": (
        "参考模型给 {place} 的对数概率为 {value}：请检查其权重和精度"
    ),
    "model.stored_reference needs data that is stored: {path}.dataset must be one of "
    "build_preference_dataset or build_unpaired_dataset, and is a {kind}": (
        "model.stored_reference 需要存好的数据：{path}.dataset 必须来自 build_preference_dataset 或 "
        "build_unpaired_dataset，而它是 {kind}"
    ),
    "model.stored_reference: the batch has no reference_logprobs; the dataset must be one of "
    "build_preference_dataset or build_unpaired_dataset, with the collate_fn that belongs to it": (
        "model.stored_reference：批次中没有 reference_logprobs；数据必须来自 build_preference_dataset 或 "
        "build_unpaired_dataset，并使用与之配套的 collate_fn"
    ),
    "--name has no effect with {kind}: leave one of them out": (
        "--name 与 {kind} 同用时不起作用：请去掉其中一个"
    ),
    "model.ref_llm is model.llm itself, {path!r}: leave it out; the reference is the same then, and "
    "with lora it takes no memory": (
        "model.ref_llm 就是 model.llm 本身（{path!r}）：请去掉它；参考模型不变，用 lora 时还不占内存"
    ),
    "{builder} formats messages with the tokenizer's chat_template, but this "
    "tokenizer has none: give it one, such as tokenizer = dict(..., chat_template=...)": (
        "{builder} 用 tokenizer 的 chat_template 排版消息，而此 tokenizer 没有：请给出，例如 "
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
