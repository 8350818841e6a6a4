"""Models with a head, and their data."""

HEADS = {
    # data
    "'label' is not the text of 'input' with + or - in the positions of its marks": (
        "'label' 并非在标记处写有 + 或 - 的 'input' 文本"
    ),
    "the last step of 'input' has no mark at its end": "'input' 的最后一步末尾没有标记",
    "the label of a step is {value!r:.40}: write true for a right one, false for a wrong one": (
        "某一步的标签为 {value!r:.40}：正确写 true，错误写 false"
    ),
    "the rating of a step is {value!r:.40}: write -1, 0 or 1": (
        "某一步的评级为 {value!r:.40}：请写 -1、0 或 1"
    ),
    "steps have ratings of 0 (neutral): they are taken as right": "有步骤的评级为 0（中性）：按正确处理",
    "the steps of the row are texts and objects: write all of them alike": (
        "该行的步骤既有文本又有对象：请统一写法"
    ),
    "the row is a pair of sentences with a score: keep pairs that belong together, as 'anchor' "
    "and 'positive'": ("该行是带分数的句子对：请只保留相关的句子对，字段为 'anchor' 和 'positive'"),
    "the labels of the row are {value!r:.80}; they must be a list of names": (
        "该行的标签为 {value!r:.80}；应为名称的列表"
    ),
    "the label {value!r:.80} is none of: {known}.{hint}": "标签 {value!r:.80} 不在以下之中：{known}。{hint}",
    "the label {value!r:.80} is not a number": "标签 {value!r:.80} 不是数",
    "the row has no positive text": "该行没有正例文本",
    "anchor and positive of the row are equal": "该行的 anchor 与 positive 相同",
    "a negative of the row is its positive": "该行的某个负例就是其正例",
    "the row has {steps} steps and {labels} labels: each step needs one": (
        "该行有 {steps} 步、{labels} 个标签：每一步都需要一个"
    ),
    "the data sets have the labels {first} and {other}: give all data sets the same labels": (
        "各数据集的标签为 {first} 与 {other}：请让所有数据集使用相同的 labels"
    ),
    "the row has no steps": "该行没有步骤",
    "step {number} of the row is {step!r:.40}; it must be text": (
        "该行第 {number} 步为 {step!r:.40}；应为文本"
    ),
    "{name} is empty: it must hold a text": "{name} 为空：应有文本",
    "{name} is {value!r:.80}; it must be a text or a list of messages": (
        "{name} 为 {value!r:.80}；应为文本或消息的列表"
    ),
    "labels are set, but problem_type = 'regression' has no classes: leave out one": (
        "设置了 labels，但 problem_type = 'regression' 没有类别：请去掉其一"
    ),
    "labels is {labels}: give the names of the classes, at least {count}, each once": (
        "labels 为 {labels}：请给出各类别的名称，至少 {count} 个，不重复"
    ),
    "max_packed_length is {packed}, less than max_length = {length}: raise it": (
        "max_packed_length 为 {packed}，小于 max_length = {length}：请调大"
    ),
    "data: samples of each label: %s": "数据：各标签的样本数：%s",
    "data: no sample has the label %s: it cannot be learnt": "数据：没有样本的标签为 %s：无法学到",
    "data: only one sample has the label %s: it will hardly be learnt": (
        "数据：只有一个样本的标签为 %s：难以学到"
    ),
    "data: %d right steps, %d wrong ones": "数据：%d 个正确步骤，%d 个错误步骤",
    # models
    "model.llm: transformers has no model for {task} of the family '{family}', so no head can be "
    "trained: take another family": (
        "model.llm：transformers 没有系列 '{family}' 的{task}模型，无法训练：请换用其他系列"
    ),
    "The adapter {folder} is one of a model that makes vectors of texts and does not write any: load "
    "it with SentenceTransformer of sentence-transformers": (
        "适配器 {folder} 属于只生成文本向量、不写文本的模型："
        "请用 sentence-transformers 的 SentenceTransformer 加载"
    ),
    "sequence classification": "序列分类",
    "token classification": "词元分类",
    "vectors of texts": "文本向量",
    "model.labels is {labels}, but problem_type is {problem_type!r}: {cure}": (
        "model.labels 为 {labels}，但 problem_type 为 {problem_type!r}：{cure}"
    ),
    "leave them out": "请去掉",
    "give the names of the classes": "请给出各类别的名称",
    "train_dataloader: {method} trains on texts with labels: set dataset = "
    "dict(type=build_classification_dataset, ...) and "
    "collate_fn = dict(type=classification_collate_fn)": (
        "train_dataloader：{method} 用带标签的文本训练：请设置 "
        "dataset = dict(type=build_classification_dataset, ...) 和 "
        "collate_fn = dict(type=classification_collate_fn)"
    ),
    "the data have the labels {theirs} for {their_type}, the model has {ours} for {our_type}: "
    "give model and dataset the same labels and problem_type": (
        "数据的标签为 {theirs}（{their_type}），模型的为 {ours}（{our_type}）："
        "请给模型和数据集相同的 labels 和 problem_type"
    ),
    "a sample ends with token {token}, the padding token, which transformers' class does not "
    "read: give the tokenizer another pad_token, and model.llm the same pad_token_id": (
        "有样本以填充 token {token} 结尾，transformers 的类不会读取它："
        "请给 tokenizer 另一个 pad_token，并给 model.llm 相同的 pad_token_id"
    ),
    "train_dataloader: {method} trains on answers in steps: set dataset = "
    "dict(type=build_stepwise_dataset, ...) and collate_fn = dict(type=stepwise_collate_fn)": (
        "train_dataloader：{method} 用分步的回答训练：请设置 "
        "dataset = dict(type=build_stepwise_dataset, ...) 和 collate_fn = dict(type=stepwise_collate_fn)"
    ),
    "model.temperature is {value}, but must be above 0: the usual value is 0.05": (
        "model.temperature 为 {value}，应大于 0：常用值为 0.05"
    ),
    "train_dataloader: {method} trains on texts that belong together: set dataset = "
    "dict(type=build_embedding_dataset, ...) and collate_fn = dict(type=embedding_collate_fn)": (
        "train_dataloader：{method} 用相关的文本训练：请设置 "
        "dataset = dict(type=build_embedding_dataset, ...) 和 collate_fn = dict(type=embedding_collate_fn)"
    ),
    "EmbeddingModel: a batch has no negatives to learn from: raise batch_size": (
        "EmbeddingModel：某个批次没有可学习的负例：请调大 batch_size"
    ),
}
