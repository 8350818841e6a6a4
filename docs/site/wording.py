"""The words of the generated pages themselves, in Chinese by the English."""

from xtuner.language import language

_CHINESE = {
    "Commands": "命令",
    "Printed from the parsers; xtuner COMMAND --help shows the same.": (
        "由命令行解析器生成，与 `xtuner 命令 --help` 的内容相同。"
    ),
    "Names of a config": "配置里的名字",
    "Printed from `xtuner/config/schema.py`, by which `check` and `train` look at a config.": (
        "由 `xtuner/config/schema.py` 生成，`xtuner check` 和 `xtuner train` 用它检查配置。"
    ),
    "Names": "名字",
    "Names that are not here are variables of your own.": "不在表中的名字是用户自己的变量。",
    "name": "名字",
    "meaning": "含义",
    "required": "必需",
    "yes": "是",
    "Of the Trainer of transformers": "transformers 的 Trainer",
    "Only with `framework = 'huggingface'`.": "仅当 `framework = 'huggingface'` 时。",
    "Keys": "键",
    "These dicts have no other keys. A dict with a `type` has the arguments of that type.": (
        "这些字典没有别的键；带 `type` 的字典，键就是该类型的参数。"
    ),
    "keys": "键",
    "Values": "取值",
    "value": "值",
    "must be": "应为",
    "one of": "以下之一：",
    "Values that exclude each other": "互相排斥的值",
    "As the error says it; values of the config stand in the braces.": (
        "即报错时的原文，大括号处是配置里的值。"
    ),
}


def word(text: str) -> str:
    """A text of these pages in the language of the page."""
    return _CHINESE.get(text, text) if language() == "zh" else text
