"""The table of sizes gives the numbers of weights that the models' own pages state."""

import pytest

from xtuner.estimate.shape import read_shape
from xtuner.recipes.models import MODELS
from xtuner.recipes.sizes import SIZES, known_sizes

PUBLISHED = {
    "llama2_7b": 6_738_415_616,
    "llama2_70b": 68_976_648_192,
    "llama3_8b": 8_030_261_248,
    "llama3_1_70b": 70_553_706_496,
    "llama3_2_1b": 1_235_814_400,
    "llama3_2_3b": 3_212_749_824,
    "vicuna_13b_v15": 13_015_864_320,
    "yi_6b": 6_061_035_520,
    "yi_34b": 34_388_917_248,
    "deepseek_coder_6_7b_base": 6_740_512_768,
    "mistral_7b": 7_241_732_096,
    "mistral_nemo_base": 12_247_782_400,
    "mixtral_8x7b": 46_702_792_704,
    "qwen1_5_0_5b": 463_987_712,
    "qwen1_5_1_8b": 1_836_828_672,
    "qwen1_5_4b": 3_950_369_280,
    "qwen1_5_7b": 7_721_324_544,
    "qwen1_5_14b": 14_167_290_880,
    "qwen1_5_72b": 72_287_920_128,
    "qwen1_5_110b": 111_209_914_368,
    "qwen2_5_0_5b": 494_032_768,
    "qwen2_5_1_5b": 1_543_714_304,
    "deepseek_r1_distill_qwen_1_5b": 1_777_088_000,
    "qwen2_5_3b": 3_085_938_688,
    "qwen2_5_7b": 7_615_616_512,
    "qwen2_5_14b": 14_770_033_664,
    "qwen2_5_32b": 32_763_876_352,
    "qwen2_5_72b": 72_706_203_648,
    "qwen3_0_6b": 596_049_920,
    "qwen3_1_7b": 1_720_574_976,
    "qwen3_4b": 4_022_468_096,
    "qwen3_8b": 8_190_735_360,
    "qwen3_14b": 14_768_307_200,
    "qwen3_32b": 32_762_123_264,
    "qwen3_30b_a3b": 30_532_122_624,
    "qwen3_235b_a22b": 235_093_634_560,
    "gemma_2b": 2_506_172_416,
    "gemma_7b": 8_537_680_896,
    "gemma2_2b": 2_614_341_888,
    "gemma2_9b": 9_241_705_984,
    "gemma2_27b": 27_227_128_320,
    "gemma3_1b": 999_885_952,
    "internlm2_1_8b": 1_889_110_016,
    "internlm2_7b": 7_737_708_544,
    "internlm2_20b": 19_861_149_696,
    "glm4_9b": 9_399_951_360,
    "glm4_9b_0414": 9_400_279_040,
    "phi3_mini_4k_instruct": 3_821_079_552,
    "phi4": 14_659_507_200,
    "phi4_mini_instruct": 3_836_021_760,
    "smollm2_135m": 134_515_008,
    "smollm2_360m": 361_821_120,
    "smollm2_1_7b": 1_711_376_384,
    "smollm3_3b": 3_075_098_624,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_row_gives_the_published_number_of_weights(name):
    assert read_shape(SIZES[name]).num_weights == PUBLISHED[name]


def test_every_size_belongs_to_a_row_and_is_checked():
    """Every row of sizes has a model and a published number."""
    assert SIZES.keys() <= MODELS.keys()
    assert {id(sizes) for sizes in SIZES.values()} == {id(SIZES[name]) for name in PUBLISHED}


def test_a_model_that_is_not_in_the_table_has_no_size():
    assert known_sizes("someone/something") is None
    assert known_sizes("Qwen/Qwen3-8B")["max_position_embeddings"] == 40960
