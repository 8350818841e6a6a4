"""The prompt template is the one that the model was trained with, unless another is asked for."""

import pytest

from xtuner.chat.trained_with import choose_template
from xtuner.errors import ConfigError
from xtuner.utils import PROMPT_TEMPLATE

BY_NAME = """
from xtuner.utils import PROMPT_TEMPLATE
prompt_template = PROMPT_TEMPLATE.internlm2_chat
"""
IN_DATASET = """
from xtuner.dataset import process_hf_dataset
from xtuner.dataset.map_fns import template_map_fn_factory
from xtuner.utils import PROMPT_TEMPLATE
one = dict(type=process_hf_dataset, template_map_fn=dict(
    type=template_map_fn_factory, template={template}))
train_dataloader = dict(batch_size=1, dataset=dict(type='x.ConcatDataset', datasets=[one]))
"""


@pytest.mark.parametrize(
    "text",
    [
        BY_NAME,
        IN_DATASET.format(template="PROMPT_TEMPLATE.internlm2_chat"),
        IN_DATASET.format(template="'xtuner.utils.PROMPT_TEMPLATE.internlm2_chat'"),
        "prompt_template = 'internlm2_chat'\n",
        f"prompt_template = {dict(PROMPT_TEMPLATE.internlm2_chat)!r}\n",
    ],
)
def test_is_read_from_the_config_beside_the_weights(tmp_path, text):
    """The template is found in every form of config."""
    (tmp_path / "xtuner_config.py").write_text(text)
    assert choose_template(None, [tmp_path / "nothing", tmp_path]) == PROMPT_TEMPLATE.internlm2_chat


@pytest.mark.parametrize("kind", ["VisionLanguageDataset", "'xtuner.dataset.VisionLanguageDataset'"])
def test_a_processor_writes_its_own_template(tmp_path, kind):
    """The config of a vision-language data set may name another, but its samples have that."""
    text = f"{BY_NAME}\ntrain_dataloader = dict(dataset=dict(type={kind}, processor=dict()))\n"
    (tmp_path / "xtuner_config.py").write_text(text)
    assert choose_template(None, [tmp_path]) == PROMPT_TEMPLATE.auto


@pytest.mark.parametrize(
    ("template", "wanted"),
    [("PROMPT_TEMPLATE.vicuna", "vicuna"), ("prompt_template", "internlm2_chat"), ("None", "auto")],
)
def test_a_template_of_the_data_set_replaces_the_processor_s(tmp_path, template, wanted):
    """As in training."""
    data = f"dict(type=VisionLanguageDataset, processor=dict(), template={template})"
    (tmp_path / "xtuner_config.py").write_text(f"{BY_NAME}\ntrain_dataloader = dict(dataset={data})\n")
    assert choose_template(None, [tmp_path]) == PROMPT_TEMPLATE[wanted]


def test_internvl_s_recipes_are_answered_in_their_own_form(tmp_path):
    """Without line breaks between turns."""
    data = "dict(type=InternVL_V1_5_Dataset, model_path='m', template=prompt_template)"
    (tmp_path / "xtuner_config.py").write_text(f"{BY_NAME}\ntrain_dataloader = dict(dataset={data})\n")
    assert choose_template(None, [tmp_path])["INSTRUCTION"] == (
        "<|im_start|>user\n{input}<|im_end|><|im_start|>assistant\n"
    )


def test_another_one_is_used_with_a_warning(tmp_path, caplog):
    """The user's template is used; a difference is logged."""
    (tmp_path / "xtuner_config.py").write_text(BY_NAME)
    assert choose_template("default", [tmp_path]) == PROMPT_TEMPLATE.default
    assert "trained with the prompt template internlm2_chat; with default" in caplog.text
    caplog.clear()
    assert choose_template("internlm2_chat", [tmp_path]) == PROMPT_TEMPLATE.internlm2_chat
    assert caplog.text == ""


def test_nothing_known(tmp_path, caplog):
    """No config, no template in it, or an invalid config gives None; the last is logged."""
    assert choose_template(None, [tmp_path]) is None
    (tmp_path / "xtuner_config.py").write_text("lr = 1\n")
    assert choose_template(None, [tmp_path]) is None
    (tmp_path / "xtuner_config.py").write_text("lr = \n")
    assert choose_template(None, [tmp_path]) is None
    assert "the prompt template in" in caplog.text


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path):
    """A typo gets the nearest names."""
    with pytest.raises(ConfigError, match="Did you mean 'internlm2_chat'"):
        choose_template("internlm2_chatt", [tmp_path])
