"""What trackers show of a config, and what is never shown."""

import json

from xtuner.config import parse_config
from xtuner.credentials import without_credentials
from xtuner.engine.trackers.facts import IDS_FILE, credentials_of, flattened, grouped, recorded

CONFIG = """
from torch.optim import AdamW
lr = 2e-4
pad_token = '<pad>'
evaluation_inputs = ['hi', 'who are you?']
optim_wrapper = dict(optimizer=dict(type=AdamW, lr=lr, betas=(0.9, 0.99)), clip_grad=None)
param_scheduler = [dict(begin=0), dict(begin=10)]
visualizer = dict(api_key='verysecret1', host='https://me:pass@host/x')
"""


def test_a_config_is_flat_and_without_credentials():
    assert flattened(parse_config(CONFIG, "a.py")) == {
        "lr": 2e-4,
        "pad_token": "<pad>",
        "evaluation_inputs": '["hi", "who are you?"]',
        "optim_wrapper.optimizer.type": "torch.optim.AdamW",
        "optim_wrapper.optimizer.lr": 2e-4,
        "optim_wrapper.optimizer.betas": "[0.9, 0.99]",
        "param_scheduler.0.begin": 0,
        "param_scheduler.1.begin": 10,
        "visualizer.api_key": "***",
        "visualizer.host": "https://***@host/x",
    }


def test_the_text_of_a_config_has_no_credentials():
    """Neither those of the config, nor of the environment, nor what looks like one."""
    config = parse_config(CONFIG, "a.py")
    shown = without_credentials(config.text, credentials_of(config))
    assert "verysecret1" not in shown
    assert "api_key='***'" in shown


def test_credentials_of_the_environment_and_of_known_forms_are_hidden(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    monkeypatch.setenv("SOME_TOKEN_COUNT", "1")
    text = "401 for 0123456789abcdef and hf_abcdefghijklmnopqrst at http://u:p@h/1"
    assert without_credentials(text) == "401 for *** and *** at http://***@h/1"


def test_scalars_of_training_are_grouped_apart_from_those_of_validation():
    scalars = {"loss": 1.0, "iter": 5, "epoch": 1, "val/loss": 2.0, "forget/mmlu": 3.0}
    assert grouped(scalars) == {"train/loss": 1.0, "train/epoch": 1, "val/loss": 2.0, "forget/mmlu": 3.0}


def test_only_starts_of_the_same_run_count_as_recorded(tmp_path):
    for name, ids, steps in (
        ("20260101_000000", {"mlflow": "a"}, (1, 2)),
        ("20260101_000001", {"mlflow": "b"}, (1, 2, 3, 4)),
        ("20260101_000002", {"mlflow": "a", "wandb": "a"}, (2, 3)),
        ("20260101_000003", None, (9,)),
    ):
        folder = tmp_path / name / "vis_data"
        folder.mkdir(parents=True)
        lines = [json.dumps({"loss": 1.0, "iter": step, "step": step}) + "\n" for step in steps]
        (folder / "scalars.json").write_text("".join(lines) + '{"loss": 7')
        if ids is not None:
            (folder / IDS_FILE).write_text(json.dumps(ids))
    assert recorded(tmp_path, "mlflow", "a") == {"loss": 3, "iter": 3, "epoch": 3}
    assert recorded(tmp_path, "mlflow", "c") == {}
