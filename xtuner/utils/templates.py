"""The prompt and system templates by name, which convert a conversation to the text that a model expects.

    PROMPT_TEMPLATE.internlm2_chat, "hello", system="Be kind."
    -> "<|im_start|>system\\nBe kind.<|im_end|>\\n"           SYSTEM
       "<|im_start|>user\\nhello<|im_end|>\\n"                INSTRUCTION
       "<|im_start|>assistant\\n"
       then the answer, SUFFIX ("<|im_end|>") and SEP ("\\n")

SUFFIX_AS_EOS means that SUFFIX already ends a turn, so no end-of-sequence token follows it. STOP_WORDS end
an answer in a chat. If the system text is part of the first question, INSTRUCTION_WITH_SYSTEM is used
instead of SYSTEM and INSTRUCTION. A placeholder is `{system}`, `{input}`, `{round}` or
`{bot_name}`; braces in their values are kept.

`PROMPT_TEMPLATE.auto` stands for the tokenizer's chat_template.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from xtuner.errors import ConfigError, did_you_mean
from xtuner.language import translate
from xtuner.log import say_once

_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{(\w+)\}")


class UnknownTemplateError(ConfigError, KeyError, AttributeError):
    """No template has this name."""


class PromptTemplate(dict):
    """One family's template: a dict whose keys are attributes too."""

    def __getattr__(self, key: str) -> Any:
        if key in self:
            return self[key]
        raise AttributeError(f"this prompt template has no {key}; it has {', '.join(self)}")


class TemplateTable(dict):
    """Templates by name, as items and attributes; the error of an unknown name suggests similar ones."""

    def __init__(self, kind: str, /, **templates: Any) -> None:
        super().__init__(templates)
        self._kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        return _make_table, (self._kind, dict(self))

    def __missing__(self, name: str) -> Any:
        raise UnknownTemplateError(
            translate(
                "there is no {kind} named {name!r}.{hint} Known: {names}",
                kind=translate(self._kind),
                name=name,
                hint=did_you_mean(name, self),
                names=", ".join(self),
            )
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]


def _make_table(kind: str, templates: dict[str, Any]) -> TemplateTable:
    return TemplateTable(kind, **templates)


@lru_cache(maxsize=256)
def _split_placeholders(text: str) -> tuple[tuple[str, bool], ...]:
    """The literal parts and the placeholder names of `text`, in order: `(part, is_placeholder)`."""
    parts, end = [], 0
    for match in _PLACEHOLDER.finditer(text):
        parts.append((text[end : match.start()], False))
        name = match.group(1)
        parts.append((name, True) if name else (match.group()[0], False))
        end = match.end()
    return (*parts, (text[end:], False))


def fill_placeholders(text: str, **values: object) -> str:
    """`text` with each `{name}` replaced by its value; braces in values are kept."""
    try:
        return "".join(str(values[part]) if named else part for part, named in _split_placeholders(text))
    except KeyError as error:
        name = str(error.args[0])
        raise ConfigError(
            translate(
                "a template has the placeholder {{{name}}}, and only {names} can be filled in "
                "there.{hint} Write braces that are meant as text twice, {{{{...}}}}: {text!r}",
                name=name,
                names=", ".join(values),
                hint=did_you_mean(name, values),
                text=text,
            )
        ) from None


def is_tokenizers_own(template: Mapping[str, Any] | None) -> bool:
    """Whether `template` is PROMPT_TEMPLATE.auto, the tokenizer's chat_template."""
    return template is not None and template.get("FROM_TOKENIZER") is True


def render_prompt(
    template: Mapping[str, Any], text: str, system: str = "", round: int = 1, bot_name: str = "BOT"
) -> str:
    """The prompt of one turn: the system text, if any, and the instruction."""
    if is_tokenizers_own(template):
        raise ConfigError(
            translate(
                "PROMPT_TEMPLATE.auto is the tokenizer's own chat_template: it writes whole "
                "conversations, not single turns"
            )
        )
    instruction = template.get("INSTRUCTION")
    if instruction is None:
        raise ConfigError(
            translate(
                "a prompt template needs INSTRUCTION; this one has {names}",
                names=", ".join(template) or "nothing",
            )
        )
    prompt = fill_placeholders(instruction, input=text, round=round, bot_name=bot_name)
    if not system:
        return prompt
    both = template.get("INSTRUCTION_WITH_SYSTEM")
    if both is not None:
        return fill_placeholders(both, system=system, input=text, round=round, bot_name=bot_name)
    layout = template.get("SYSTEM")
    if layout is None:
        say_once(
            "the prompt template has no SYSTEM part: the system text is put before the instruction, "
            "on a line of its own"
        )
        return system.rstrip("\n") + "\n" + prompt
    return fill_placeholders(layout, system=system, round=round, bot_name=bot_name) + prompt


# Templates that several families have.
_DEEPSEEK_CODER = PromptTemplate(
    SYSTEM=(
        "You are an AI programming assistant, utilizing the DeepSeek Coder model, developed by "
        "DeepSeekCompany, and you only answer questions related to computer science. For "
        "politically sensitive questions, security and privacy issues, and other non-computer "
        "science questions, you will refuse to answer. {system}\n"
    ),
    INSTRUCTION="### Instruction:\n{input}\n### Response:\n",
    SEP="\n",
)

_VICUNA = PromptTemplate(
    SYSTEM=(
        "A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions. {system}\n"
        " "
    ),
    INSTRUCTION="USER: {input} ASSISTANT:",
    SEP="\n",
)

_INST = PromptTemplate(
    SYSTEM="[INST] {system} [/INST]\n",
    INSTRUCTION="[INST] {input} [/INST]",
    SEP="\n",
)

_CHATML = PromptTemplate(
    SYSTEM="<|im_start|>system\n{system}<|im_end|>\n",
    INSTRUCTION="<|im_start|>user\n{input}<|im_end|>\n<|im_start|>assistant\n",
    SUFFIX="<|im_end|>",
    SUFFIX_AS_EOS=True,
    SEP="\n",
    STOP_WORDS=["<|im_end|>", "<|endoftext|>"],
)

# States the knowledge cut-off and a fixed date, as the model's template does without a date.
_LLAMA3_1 = PromptTemplate(
    SYSTEM=(
        "<|start_header_id|>system<|end_header_id|>\n\n"
        "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n{system}<|eot_id|>"
    ),
    INSTRUCTION=(
        "<|start_header_id|>user<|end_header_id|>\n\n{input}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    SUFFIX="<|eot_id|>",
    SUFFIX_AS_EOS=True,
    STOP_WORDS=["<|eot_id|>", "<|eom_id|>"],
)

_DEEPSEEK_V3 = PromptTemplate(
    SYSTEM="{system}",
    INSTRUCTION="<｜User｜>{input}<｜Assistant｜>",
    SUFFIX="<｜end▁of▁sentence｜>",
    SUFFIX_AS_EOS=True,
    STOP_WORDS=["<｜end▁of▁sentence｜>"],
)

PROMPT_TEMPLATE = TemplateTable(
    "prompt template",
    auto=PromptTemplate(FROM_TOKENIZER=True),
    default=PromptTemplate(
        SYSTEM="<|System|>:{system}\n",
        INSTRUCTION="<|User|>:{input}\n<|Bot|>:",
        SEP="\n",
    ),
    zephyr=PromptTemplate(
        SYSTEM="<|system|>\n{system}\n",
        INSTRUCTION="<|user|>\n{input}\n<|assistant|>\n",
        SEP="\n",
    ),
    internlm_chat=PromptTemplate(
        SYSTEM="<|System|>:{system}\n",
        INSTRUCTION="<|User|>:{input}<eoh>\n<|Bot|>:",
        SUFFIX="<eoa>",
        SUFFIX_AS_EOS=True,
        SEP="\n",
        STOP_WORDS=["<eoa>"],
    ),
    internlm2_chat=PromptTemplate(
        SYSTEM="<|im_start|>system\n{system}<|im_end|>\n",
        INSTRUCTION="<|im_start|>user\n{input}<|im_end|>\n<|im_start|>assistant\n",
        SUFFIX="<|im_end|>",
        SUFFIX_AS_EOS=True,
        SEP="\n",
        STOP_WORDS=["<|im_end|>"],
    ),
    moss_sft=PromptTemplate(
        SYSTEM="{system}\n",
        INSTRUCTION="<|Human|>: {input}<eoh>\n",
        SEP="\n",
        STOP_WORDS=["<eoc>", "<eom>"],
    ),
    llama2_chat=PromptTemplate(
        SYSTEM=(
            "[INST] <<SYS>>\n"
            " You are a helpful, respectful and honest assistant. Always answer as helpfully as "
            "possible, while being safe. Your answers should not include any harmful, unethical, "
            "racist, sexist, toxic, dangerous, or illegal content. Please ensure that your responses "
            "are socially unbiased and positive in nature.\n"
            "{system}\n"
            "<</SYS>>\n"
            " [/INST] "
        ),
        INSTRUCTION="[INST] {input} [/INST]",
        SEP="\n",
    ),
    code_llama_chat=PromptTemplate(
        SYSTEM="{system}\n",
        INSTRUCTION="[INST] {input} [/INST]",
    ),
    chatglm2=PromptTemplate(
        SYSTEM="{system}\n",
        INSTRUCTION="[Round {round}]\n\n问：{input}\n\n答：",
        SEP="\n\n",
    ),
    chatglm3=PromptTemplate(
        SYSTEM="<|system|>\n{system}",
        INSTRUCTION="<|user|>\n{input}<|assistant|>\n",
        SEP="\n",
    ),
    qwen_chat=_CHATML,
    baichuan_chat=PromptTemplate(
        SYSTEM="{system}\n",
        INSTRUCTION="<reserved_102>{input}<reserved_103>",
        SEP="\n",
    ),
    baichuan2_chat=PromptTemplate(
        SYSTEM="{system}\n",
        INSTRUCTION="<reserved_106>{input}<reserved_107>",
        SEP="\n",
    ),
    wizardlm=_VICUNA,
    wizardcoder=PromptTemplate(
        SYSTEM=(
            "Below is an instruction that describes a task. Write a response that appropriately "
            "completes the request.\n"
            "\n"
            "{system}\n"
            " "
        ),
        INSTRUCTION="### Instruction:\n{input}\n\n### Response:",
        SEP="\n\n",
    ),
    vicuna=_VICUNA,
    deepseek_coder=_DEEPSEEK_CODER,
    deepseekcoder=_DEEPSEEK_CODER,
    deepseek_moe=_INST,
    deepseek_v2=PromptTemplate(
        SYSTEM="{system}\n\n",
        INSTRUCTION="User: {input}\n\nAssistant: ",
        SUFFIX="<｜end▁of▁sentence｜>",
        SUFFIX_AS_EOS=True,
        STOP_WORDS=["<｜end▁of▁sentence｜>"],
    ),
    mistral=_INST,
    mixtral=_INST,
    minicpm=PromptTemplate(
        INSTRUCTION="<用户> {input} <AI>",
        SEP="\n",
    ),
    minicpm3=_CHATML,
    gemma=PromptTemplate(
        SYSTEM="<start_of_turn>system\n{system}<end_of_turn>\n",
        INSTRUCTION="<start_of_turn>user\n{input}<end_of_turn>\n<start_of_turn>model\n",
        SUFFIX="<end_of_turn>",
        SUFFIX_AS_EOS=False,
        SEP="\n",
        STOP_WORDS=["<end_of_turn>"],
    ),
    cohere_chat=PromptTemplate(
        SYSTEM="<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{system}<|END_OF_TURN_TOKEN|>",
        INSTRUCTION=(
            "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{input}<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"
        ),
        SUFFIX="<|END_OF_TURN_TOKEN|>",
        SUFFIX_AS_EOS=True,
        STOP_WORDS=["<|END_OF_TURN_TOKEN|>"],
    ),
    llama3_chat=PromptTemplate(
        SYSTEM="<|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>",
        INSTRUCTION=(
            "<|start_header_id|>user<|end_header_id|>\n"
            "\n"
            "{input}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
            "\n"
        ),
        SUFFIX="<|eot_id|>",
        SUFFIX_AS_EOS=True,
        STOP_WORDS=["<|eot_id|>"],
    ),
    phi3_chat=PromptTemplate(
        SYSTEM="<|system|>\n{system}<|end|>\n",
        INSTRUCTION="<|user|>\n{input}<|end|>\n<|assistant|>\n",
        SUFFIX="<|end|>",
        SUFFIX_AS_EOS=True,
        SEP="\n",
        STOP_WORDS=["<|end|>"],
    ),
    # Newer families, for which `auto` works too.
    qwen2_5=_CHATML,
    # Answers contain the reasoning: "<think>\n...\n</think>\n\n...".
    qwen3=_CHATML,
    # Answers without reasoning; the prompt ends with an empty one.
    qwen3_no_think=PromptTemplate(
        _CHATML,
        INSTRUCTION=f"{_CHATML.INSTRUCTION}<think>\n\n</think>\n\n",
    ),
    llama3_1=_LLAMA3_1,
    llama3_2=_LLAMA3_1,
    llama3_3=_LLAMA3_1,
    gemma3=PromptTemplate(
        INSTRUCTION="<start_of_turn>user\n{input}<end_of_turn>\n<start_of_turn>model\n",
        INSTRUCTION_WITH_SYSTEM=(
            "<start_of_turn>user\n{system}\n\n{input}<end_of_turn>\n<start_of_turn>model\n"
        ),
        SUFFIX="<end_of_turn>",
        SUFFIX_AS_EOS=True,
        SEP="\n",
        STOP_WORDS=["<end_of_turn>"],
    ),
    internlm3=PromptTemplate(_CHATML, STOP_WORDS=["<|im_end|>", "</s>"]),
    # The tokenizer adds [gMASK]<sop>; an answer ends with its end-of-sequence token.
    glm4=PromptTemplate(
        SYSTEM="<|system|>\n{system}",
        INSTRUCTION="<|user|>\n{input}<|assistant|>\n",
        STOP_WORDS=["<|endoftext|>", "<|user|>", "<|observation|>"],
    ),
    deepseek_v3=_DEEPSEEK_V3,
    # Answers contain the reasoning, as with qwen3. The template of all distilled models, whatever their base.
    deepseek_r1=_DEEPSEEK_V3,
    minicpm4=_CHATML,
    phi4=PromptTemplate(
        SYSTEM="<|im_start|>system<|im_sep|>{system}<|im_end|>",
        INSTRUCTION="<|im_start|>user<|im_sep|>{input}<|im_end|><|im_start|>assistant<|im_sep|>",
        SUFFIX="<|im_end|>",
        SUFFIX_AS_EOS=True,
        STOP_WORDS=["<|im_end|>", "<|endoftext|>"],
    ),
    phi4_mini=PromptTemplate(
        SYSTEM="<|system|>{system}<|end|>",
        INSTRUCTION="<|user|>{input}<|end|><|assistant|>",
        SUFFIX="<|end|>",
        SUFFIX_AS_EOS=True,
        STOP_WORDS=["<|end|>", "<|endoftext|>"],
    ),
)

SYSTEM_TEMPLATE = TemplateTable(
    "system template",
    moss_sft=(
        "You are an AI assistant whose name is {bot_name}.\n"
        "Capabilities and tools that {bot_name} can possess.\n"
        "- Inner thoughts: enabled.\n"
        "- Web search: enabled. API: Search(query)\n"
        "- Calculator: enabled. API: Calculate(expression)\n"
        "- Equation solver: enabled. API: Solve(equation)\n"
        "- Text-to-image: disabled.\n"
        "- Image edition: disabled.\n"
        "- Text-to-speech: disabled.\n"
    ),
    alpaca=(
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n"
    ),
    arxiv_gentile=(
        "If you are an expert in writing papers, please generate a good paper title for this paper "
        "based on other authors' descriptions of their abstracts.\n"
    ),
    colorist=(
        "You are a professional color designer. Please provide the corresponding colors based on the "
        "description of Human.\n"
    ),
    coder=(
        "You are a professional programer. Please provide the corresponding code based on the "
        "description of Human.\n"
    ),
    lawyer="你现在是一名专业的中国律师，请根据用户的问题给出准确、有理有据的回复。\n",
    medical="如果你是一名医生，请根据患者的描述回答医学问题。\n",
    sql=(
        "If you are an expert in SQL, please generate a good SQL Query for Question based on the "
        "CREATE TABLE statement.\n"
    ),
)
