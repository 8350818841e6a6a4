"""Map functions: each makes conversations of the rows of one known data set.

{"instruction": "Add.", "input": "1 2", "output": "3"}
-> {"conversation": [{"input": "Add.\\n1 2", "output": "3"}]}
"""

from xtuner.dataset.map_fns.alpaca import alpaca_map_fn
from xtuner.dataset.map_fns.alpaca_zh import alpaca_zh_map_fn
from xtuner.dataset.map_fns.arxiv import arxiv_map_fn
from xtuner.dataset.map_fns.auto import auto_map_fn
from xtuner.dataset.map_fns.chosen_rejected import chosen_rejected_map_fn
from xtuner.dataset.map_fns.code_alpaca import code_alpaca_map_fn
from xtuner.dataset.map_fns.colors import colors_map_fn
from xtuner.dataset.map_fns.completion import completion_map_fn
from xtuner.dataset.map_fns.crime_kg_assitant import crime_kg_assitant_map_fn
from xtuner.dataset.map_fns.default import default_map_fn
from xtuner.dataset.map_fns.law_reference import law_reference_map_fn
from xtuner.dataset.map_fns.llava import llava_image_only_map_fn, llava_map_fn
from xtuner.dataset.map_fns.medical import medical_map_fn
from xtuner.dataset.map_fns.msagent_react import msagent_react_map_fn
from xtuner.dataset.map_fns.oasst1 import oasst1_map_fn
from xtuner.dataset.map_fns.openai import openai_map_fn
from xtuner.dataset.map_fns.openorca import openorca_map_fn
from xtuner.dataset.map_fns.pretrain import pretrain_map_fn
from xtuner.dataset.map_fns.sharegpt import sharegpt_map_fn
from xtuner.dataset.map_fns.sql import sql_map_fn
from xtuner.dataset.map_fns.stack_exchange import stack_exchange_map_fn
from xtuner.dataset.map_fns.template import (
    chat_messages_map_fn,
    find_template,
    template_map_fn,
    template_map_fn_factory,
)
from xtuner.dataset.map_fns.tiny_codes import tiny_codes_map_fn
from xtuner.dataset.map_fns.wizardlm import wizardlm_map_fn

# `crime_kg_assitan` (sic) is the name in existing configs and in `list-dataset-format`.
DATASET_FORMAT_MAPPING = {
    "alpaca": alpaca_map_fn,
    "alpaca_zh": alpaca_zh_map_fn,
    "arxiv": arxiv_map_fn,
    "code_alpaca": code_alpaca_map_fn,
    "colors": colors_map_fn,
    "crime_kg_assitan": crime_kg_assitant_map_fn,
    "default": default_map_fn,
    "law_reference": law_reference_map_fn,
    "llava": llava_map_fn,
    "llava_image_only": llava_image_only_map_fn,
    "medical": medical_map_fn,
    "msagent_react": msagent_react_map_fn,
    "oasst1": oasst1_map_fn,
    "openai": openai_map_fn,
    "openorca": openorca_map_fn,
    "pretrain": pretrain_map_fn,
    "sql": sql_map_fn,
    "stack_exchange": stack_exchange_map_fn,
    "tiny_codes": tiny_codes_map_fn,
    "wizardlm": wizardlm_map_fn,
    "sharegpt": sharegpt_map_fn,
    "completion": completion_map_fn,
    "chosen_rejected": chosen_rejected_map_fn,
    "auto": auto_map_fn,
}

__all__ = [
    "DATASET_FORMAT_MAPPING",
    "alpaca_map_fn",
    "alpaca_zh_map_fn",
    "arxiv_map_fn",
    "auto_map_fn",
    "chat_messages_map_fn",
    "chosen_rejected_map_fn",
    "code_alpaca_map_fn",
    "colors_map_fn",
    "completion_map_fn",
    "crime_kg_assitant_map_fn",
    "default_map_fn",
    "find_template",
    "law_reference_map_fn",
    "llava_image_only_map_fn",
    "llava_map_fn",
    "medical_map_fn",
    "msagent_react_map_fn",
    "oasst1_map_fn",
    "openai_map_fn",
    "openorca_map_fn",
    "pretrain_map_fn",
    "sharegpt_map_fn",
    "sql_map_fn",
    "stack_exchange_map_fn",
    "template_map_fn",
    "template_map_fn_factory",
    "tiny_codes_map_fn",
    "wizardlm_map_fn",
]
