"""The one-page example trains and leaves an adapter that peft loads."""

import importlib.util
import json
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_in_one_file.py"


def test_the_loss_falls_and_the_adapter_loads(llama_dir, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("train_in_one_file", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    rows = [{"instruction": "Who are you?", "input": "", "output": f"I am number {i}."} for i in range(8)]
    data = tmp_path / "rows.json"
    data.write_text(json.dumps(rows))
    words = [str(llama_dir), str(data), str(tmp_path / "out"), "--max-length", "64", "--updates", "20"]
    losses = example.main([*words, "--lr", "1e-2"])
    assert losses[-1] < losses[0] * 0.9
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names
