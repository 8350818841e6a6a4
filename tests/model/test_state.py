import pytest

from xtuner.errors import CheckpointError
from xtuner.model.state import adapter_state_dict, hf_state_dict, is_adapter, run_key

RUN = {
    "llm.base_model.model.model.layers.0.q_proj.lora_A.default.weight": 1,
    "llm.base_model.model.model.embed_tokens.lora_embedding_B.default": 2,
    "llm.base_model.model.model.layers.0.q_proj.lora_magnitude_vector.default.weight": 3,
    "llm.base_model.model.lm_head.modules_to_save.default.weight": 4,
    "llm.base_model.model.model.layers.0.q_proj.base_layer.bias": 5,
}
FILE = {
    "base_model.model.model.layers.0.q_proj.lora_A.weight": 1,
    "base_model.model.model.embed_tokens.lora_embedding_B": 2,
    "base_model.model.model.layers.0.q_proj.lora_magnitude_vector": 3,
    "base_model.model.lm_head.weight": 4,
    "base_model.model.model.layers.0.q_proj.base_layer.bias": 5,
}


def test_names_of_a_lora_run_become_those_of_an_adapter_file():
    """The adapter's name is removed; values are unchanged; the names convert back."""
    assert adapter_state_dict(RUN) == FILE
    assert {run_key(name, set(RUN)): value for name, value in FILE.items()} == RUN
    assert run_key("base_model.nothing", set(RUN)) is None


def test_names_of_a_full_run_become_those_of_a_model_folder():
    """`llm.` is removed once, only at the front."""
    assert hf_state_dict({"llm.model.llm.weight": 1, "llm.lm_head.weight": 2}) == {
        "model.llm.weight": 1,
        "lm_head.weight": 2,
    }


def test_a_run_is_an_adapter_when_it_has_adapter_weights():
    """It is recognised by names only."""
    assert is_adapter(RUN)
    assert not is_adapter({"llm.lm_head.weight": 0})


def test_a_checkpoint_of_something_else_is_refused():
    """The first name is shown."""
    with pytest.raises(CheckpointError, match=r"should start with 'llm\.', the first one is 'projector.w'"):
        hf_state_dict({"projector.w": 0})
