"""The labels and sentences of a survey, in English and Chinese."""

from __future__ import annotations

from typing import Any

from xtuner.dataset.encoding.pipeline import EMPTY, FAULTY, NOTHING_TRAINED, PROMPT_FILLS
from xtuner.dataset.preferences.samples import EQUAL, TIED
from xtuner.language import LANGUAGES
from xtuner.singular import filled
from xtuner.survey.counts import Counts, Lengths
from xtuner.survey.faults import Finding
from xtuner.survey.views import ItemView

# key: (English, Chinese)
WORDS = {
    "title": ("Data of", "数据："),
    "rows": ("rows", "行数"),
    "samples": ("samples", "样本数"),
    "tokens": ("tokens", "token 数"),
    "trained": ("trained tokens", "参与训练的 token"),
    "packs": ("items to train on", "训练条目"),
    "fill": ("items full", "条目填充率"),
    "cut": ("rows cut", "被截断的行"),
    "cut_tokens": ("tokens cut off", "被截去的 token"),
    "empty_answers": ("rows with an empty answer", "回答为空的行"),
    "continued": ("rows that continue in further samples", "延续到后续样本的行"),
    "dropped": ("rows dropped", "被丢弃的行"),
    "row": ("row", "原始数据"),
    "mapped": ("after dataset_map_fn", "经过 dataset_map_fn"),
    "templated": ("after the template", "套用对话模板后"),
    "input_ids": ("input_ids", "input_ids"),
    "labels": ("labels", "labels"),
    "text": ("text", "文本"),
    "unchanged": ("(unchanged)", "（无变化）"),
    "num_tokens": ("tokens", "个 token"),
    "num_samples": ("samples", "个样本"),
    "lengths": ("Tokens per sample", "样本长度（token）"),
    "median": ("median", "中位数"),
    "mean": ("mean", "平均"),
    "min": ("min", "最短"),
    "max": ("max", "最长"),
    "findings": ("Warnings", "警告"),
    "no_findings": ("No warnings.", "没有警告。"),
    "is_trained": ("trained", "参与训练"),
    "not_trained": ("not trained", "不参与训练"),
    "page": ("Page for the browser:", "网页："),
    "together": ("all data sets together", "全部数据集合计"),
    "counts": ("Counts", "统计"),
    "examples": ("Samples", "样本"),
    "source": ("source", "来源"),
    "failed": ("stops here", "在此出错"),
    "is_dropped": ("dropped: nothing in it", "被丢弃：没有内容"),
    "more": ("more", "更多"),
    "compared": ("compared answers", "成对的回答"),
    "chosen": ("chosen", "chosen"),
    "rejected": ("rejected", "rejected"),
    "good_answer": ("good answer", "好回答"),
    "bad_answer": ("bad answer", "坏回答"),
    "tokens_cut": ("tokens cut off at max_length", "个 token 因 max_length 被截去"),
}

SENTENCES = {
    "no_end": (
        "{count} of {total} answers do not end with a trained token that ends a turn ({ends}): "
        "the model would not learn to stop. Check SUFFIX and SUFFIX_AS_EOS of the prompt template.",
        "{total} 个回答中有 {count} 个没有以参与训练的结束符（{ends}）收尾：模型学不会停止。"
        "请检查对话模板的 SUFFIX 和 SUFFIX_AS_EOS。",
    ),
    "suffix_in_pieces": (
        "the prompt template ends an answer with {suffix!r}, which this tokenizer spells in {count} tokens: "
        "the template is made for another model.",
        "对话模板用 {suffix!r} 结束回答，而该分词器把它拆成 {count} 个 token：模板与模型不匹配。",
    ),
    "bos_twice": (
        "{count} of {total} samples have {token} twice in a row: the tokenizer adds one already, "
        "so take it out of the template.",
        "{total} 个样本中有 {count} 个连续出现两次 {token}：分词器已自动添加，请从模板中去掉。",
    ),
    "other_template": (
        "the prompt template differs from the tokenizer's own chat template, first in {place}: "
        "{ours!r} here, {own!r} there. A chat model learns best with its own: "
        "prompt_template = PROMPT_TEMPLATE.auto.",
        "对话模板与分词器自带的 chat_template 不同，首先见于 {place}：此处为 {ours!r}，自带的为 {own!r}。"
        "对话模型最好沿用自带的模板：prompt_template = PROMPT_TEMPLATE.auto。",
    ),
    "dropped": (
        "Rows dropped: {count} with {reason} ({places}).",
        "丢弃了 {count} 行：{reason}（{places}）。",
    ),
    "left_out": (
        "The tokenizer's chat template leaves out {what} in {count} rows ({places}).",
        "分词器的 chat_template 在 {count} 行中略去了{what}（{places}）。",
    ),
    "left_out_thinking": (
        "The tokenizer's chat template leaves out {what} in {count} rows ({places}). "
        "one_sample_per_turn = True trains it.",
        "分词器的 chat_template 在 {count} 行中略去了{what}（{places}）。"
        "one_sample_per_turn = True 可让其参与训练。",
    ),
    "empty_answers": (
        "{count} rows have an empty answer, of which only the end is supervised: the model learns to say "
        "nothing ({places}).",
        "{count} 行的回答为空，只有结束符参与训练，模型会学到不作回答（{places}）。",
    ),
    "swapped": (
        "In {count} rows the rejected answer has the higher score ({places}): are both swapped?",
        "{count} 行中 rejected 的评分更高（{places}）：是否写反了？",
    ),
    "mixed": (
        "In {count} rows one answer is a text and the other is messages ({places}): are fields mixed up?",
        "{count} 行中一个回答是文本，另一个是消息（{places}）：字段是否弄混了？",
    ),
    "answers_cut": (
        "{chosen} chosen and {rejected} rejected answers of {total} pairs are cut at max_length = "
        "{max_length}: they are compared without their ends. Raise max_length, or leave these pairs out.",
        "{total} 对中有 {chosen} 个 chosen 和 {rejected} 个 rejected 回答在 "
        "max_length = {max_length} 处被截断：比较的回答不完整。请调大 max_length，或去掉这些数据。",
    ),
    "length_bias": (
        "In {share:.0%} of the pairs the {side} answer is the longer one (median {own:.0f} tokens against "
        "{other:.0f}): the model may learn length. Add pairs of the other kind, or use a loss that counts by "
        "token.",
        "{share:.0%} 的数据对中 {side} 回答更长（中位数 {own:.0f} 个 token，另一方为 {other:.0f}）："
        "模型可能只学到长度。请加入相反的数据，或用按 token 平均的损失。",
    ),
    "one_sided": (
        "{share:.0%} of the {side} answers begin with {text!r}, and {other:.0%} of the others do: the "
        "model may learn this form alone. Write both answers in one form.",
        "{share:.0%} 的 {side} 回答以 {text!r} 开头，而另一方只有 {other:.0%}：模型可能只学到这种形式。"
        "请让两个回答形式一致。",
    ),
    "cut": (
        "{share:.1%} of the rows ({count}) are longer than max_length = {max_length} and cut: "
        "{tokens} tokens are lost. Raise max_length to keep them.",
        "{share:.1%} 的行（{count} 行）超过 max_length = {max_length} 而被截断，损失 {tokens} 个 token。"
        "可调大 max_length。",
    ),
}

REASONS = {
    EMPTY: "没有对话内容",
    FAULTY: "内容有错误",
    PROMPT_FILLS: "仅问题部分就占满了 max_length",
    NOTHING_TRAINED: "没有可训练的 token",
    EQUAL: "回答全部相同",
    TIED: "回答不分优劣",
}

LEFT_OUT = {
    "thinking": "思考内容",
    "thinking of earlier answers": "之前回答的思考内容",
    "a system text": "系统提示",
    "a question": "问题",
    "the result of a tool": "工具返回的结果",
    "a tool call": "工具调用",
    "the text beside a tool call": "工具调用旁的文字",
    "an answer": "回答",
}


def word(key: str, lang: str) -> str:
    """The label of that key."""
    return WORDS[key][LANGUAGES.index(lang)]


def counted(count: int, key: str, lang: str) -> str:
    """`count` before its label: "1,200 tokens", "1 token"."""
    return filled(f"{{count:,}} {word(key, lang)}", count=count)


def sentence(finding: Finding, lang: str = "en") -> str:
    """The finding as a sentence."""
    values: dict[str, Any] = {name: _shown(value) for name, value in finding.values.items()}
    if "places" in values and finding.values["count"] > len(finding.values["places"]):
        values["places"] += ", ..."
    if finding.kind == "dropped":
        values["reason"] = reason(finding.values["reason"], lang)
    if finding.kind.startswith("left_out"):
        values["what"] = LEFT_OUT[finding.values["what"]] if lang == "zh" else finding.values["what"]
    return filled(SENTENCES[finding.kind][LANGUAGES.index(lang)], **values)


def reason(text: str, lang: str) -> str:
    """The reason why rows were dropped, in that language."""
    return REASONS.get(text, text) if lang == "zh" else text


def count_lines(counts: Counts, lang: str) -> list[tuple[str, str]]:
    """Label and number of all counts that are not zero."""
    lines = [
        ("rows", f"{counts.rows:,}"),
        *((key, f"{getattr(counts, key):,}") for key in ("cut", "cut_tokens", "continued", "empty_answers")),
        ("dropped", f"{sum(counts.dropped.values()):,}"),
        ("samples", f"{counts.samples:,}"),
        ("tokens", f"{counts.tokens:,}"),
        ("trained", f"{counts.trained:,} ({counts.trained_share:.1%})"),
        ("packs", f"{counts.packs:,}"),
        ("fill", f"{counts.fill:.1%}"),
    ]
    return [(word(key, lang), number) for key, number in lines if number != "0"]


def item_title(item: ItemView, lang: str) -> str:
    """Number and size of an item."""
    tokens = counted(len(item.input_ids), "num_tokens", lang)
    samples = counted(len(item.samples), "num_samples", lang)
    if lang == "zh":
        return f"打包后的第 {item.index} 条（从 0 数起）：{tokens}，{samples}"
    return f"packed, item {item.index} (counted from 0): {tokens}, {samples}"


def length_numbers(lengths: Lengths, lang: str) -> list[tuple[str, str]]:
    """Label and number of the statistics of lengths."""
    values = ("min", lengths.min), ("median", lengths.median), ("mean", lengths.mean)
    lines = [(word(key, lang), f"{value:,.0f}") for key, value in values]
    return [*lines, ("95 %", f"{lengths.p95:,.0f}"), (word("max", lang), f"{lengths.max:,}")]


def _shown(value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else value
