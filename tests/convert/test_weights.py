"""Reading and writing weights one tensor at a time."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from xtuner.convert.safetensors_stream import SafetensorsFile, TensorInfo, write_safetensors
from xtuner.convert.weights import Weights, parse_size, write_weights
from xtuner.errors import ConfigError, ModelError, NotFoundError

TENSORS = {
    "flag": torch.tensor([True, False, True]),
    "scalar": torch.tensor(3.5, dtype=torch.float64),
    "half": torch.arange(6, dtype=torch.float16).view(2, 3),
    "brain": torch.arange(4, dtype=torch.bfloat16),
    "empty": torch.empty(0, 3),
    "ids": torch.tensor([1, -2], dtype=torch.int64),
}


def infos_of(tensors):
    return {name: TensorInfo(t.dtype, tuple(t.shape)) for name, t in tensors.items()}


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_the_library_reads_what_we_write(tmp_path):
    """A streamed file is a safetensors file of the same tensors, types and shapes."""
    write_safetensors(tmp_path / "a.safetensors", infos_of(TENSORS), TENSORS.__getitem__)
    assert_same(load_file(tmp_path / "a.safetensors"), TENSORS)


def test_we_read_what_the_library_writes(tmp_path):
    """Every tensor of a library's file reads back equal, in memory of its own."""
    save_file(TENSORS, tmp_path / "a.safetensors")
    file = SafetensorsFile(tmp_path / "a.safetensors")
    assert_same({name: file.read(name) for name in file.infos}, TENSORS)


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_a_cut_file_is_named(tmp_path, keep):
    """A file that ends early is an error with its name, not a crash or a wrong tensor."""
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors is incomplete"):
        Weights(tmp_path)


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GB", 2 * 10**9), ("1.5mb", 1_500_000), ("2GiB", 2**31), ("3 KB", 3000), ("700", 700), (9, 9)],
)
def test_sizes(text, size):
    """Sizes are powers of ten, with an i powers of two."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "two", "2XB", "1.2.3GB"])
def test_a_size_that_is_none_is_an_error(text):
    """A wrong size is named with the right spelling."""
    with pytest.raises(ConfigError, match="max_shard_size"):
        parse_size(text)


@pytest.mark.parametrize("safe", [True, False])
def test_shards_and_index(tmp_path, safe):
    """Several shards come with an index that names each tensor's file; reading goes through it."""
    tensors = {"a": torch.ones(4), "b": torch.ones(4), "c": torch.ones(2)}
    write_weights(
        tmp_path, infos_of(tensors), tensors.__getitem__, max_shard_size=30, safe_serialization=safe
    )
    stem, suffix = ("model", ".safetensors") if safe else ("pytorch_model", ".bin")
    files = [f"{stem}-0000{i}-of-00002{suffix}" for i in (1, 2)]
    assert sorted(p.name for p in tmp_path.iterdir()) == [*files, f"{stem}{suffix}.index.json"]
    assert json.loads((tmp_path / f"{stem}{suffix}.index.json").read_text()) == {
        "metadata": {"total_size": 40},
        "weight_map": {"a": files[0], "b": files[1], "c": files[1]},
    }
    assert_same(dict(Weights(tmp_path)), tensors)
    (tmp_path / files[1]).unlink()
    with pytest.raises(NotFoundError, match=files[1]):
        Weights(tmp_path)


def test_old_bin_files_are_read(tmp_path):
    """The `.bin` format from before torch 1.6 is read too, though it cannot be mapped."""
    torch.save({"a": torch.ones(3)}, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert_same(dict(Weights(tmp_path)), {"a": torch.ones(3)})


def test_a_bin_file_that_runs_code_is_refused(tmp_path):
    """Nothing in a `.bin` file is executed."""
    torch.save({"a": slice, "b": print}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin cannot be read"):
        Weights(tmp_path)
