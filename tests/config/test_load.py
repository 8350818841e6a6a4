"""From a Python file to a Config."""

import subprocess
import sys

import pytest

from xtuner.check.names import Names, look_at
from xtuner.config import Ref, load_config, parse_config, parse_option
from xtuner.errors import ConfigError, NotFoundError

SMALL = """\
import torch
from torch.optim import AdamW
from math import floor

lr = 2e-4  # the rate
size = (
    1,
    2)
optim_type = AdamW
tokenizer = dict(type='a')
optim_wrapper = dict(optimizer=dict(type=optim_type, lr=lr), dtype=torch.float16)
hooks = [dict(tokenizer=tokenizer), dict(tokenizer=tokenizer)]
twice = floor(lr * 2e4) * 2
"""


def test_imports_become_names_and_the_standard_library_stays_real():
    config = parse_config(SMALL, "c.py")
    assert config == {
        "lr": 2e-4,
        "size": (1, 2),
        "optim_type": Ref("torch.optim.AdamW"),
        "tokenizer": {"type": "a"},
        "optim_wrapper": {
            "optimizer": {"type": Ref("torch.optim.AdamW"), "lr": 2e-4},
            "dtype": Ref("torch.float16"),
        },
        "hooks": [{"tokenizer": {"type": "a"}}, {"tokenizer": {"type": "a"}}],
        "twice": 8,
    }


def test_loading_imports_neither_torch_nor_transformers():
    code = "import sys; from xtuner.config import parse_config; "
    code += "parse_config('import torch\\nx = torch.float16', 'c.py'); "
    code += "assert not {'torch', 'transformers', 'mmengine'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_one_dict_stays_one_object():
    config = parse_config(SMALL, "c.py")
    assert config.hooks[0].tokenizer is config.hooks[1].tokenizer is config.tokenizer


def test_an_option_replaces_a_name_before_the_file_runs():
    config = parse_config(SMALL, "c.py", {"lr": 1e-4, "size": (3,)})
    assert (config.optim_wrapper.optimizer.lr, config.twice, config.size) == (1e-4, 4, (3,))
    assert "lr = 0.0001  # the rate\n" in config.text


def test_a_replaced_value_leaves_all_other_lines_where_they_were():
    config = parse_config(SMALL, "c.py", {"size": 1})
    assert config.text.splitlines()[8] == "optim_type = AdamW"


def test_a_dotted_option_patches_the_result():
    config = parse_config(SMALL, "c.py", {"optim_wrapper.optimizer.lr": 1.0, "hooks.1.extra": 5})
    assert config.optim_wrapper.optimizer.lr == 1.0
    assert config.lr == 2e-4
    assert config.hooks[1].extra == 5


def test_the_text_with_options_gives_the_same_config_again():
    options = {"lr": 1e-4, "hooks.1.extra": [1], "work_dir": "there", "tokenizer.type": "é"}
    config = parse_config(SMALL, "c.py", options)
    assert parse_config(config.text, "c.py") == config


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("lrr", "--cfg-options lrr: no such name. Did you mean 'lr'?"),
        ("optim_wraper.x", "the config has no 'optim_wraper'. Did you mean 'optim_wrapper'?"),
        ("optim_wrapper.optimiser.lr", "optim_wrapper has no 'optimiser'. Did you mean 'optimizer'?"),
        ("hooks.2.x", "hooks has 2 items, counted from 0; '2' is none"),
        ("lr.x", "lr is 0.0002, not a dict or list"),
    ],
)
def test_an_unknown_option_is_an_error_with_the_nearest_spelling(key, message):
    with pytest.raises(ConfigError) as error:
        parse_config(SMALL, "c.py", {key: 1})
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1", 1),
        ("a=1e-4", 1e-4),
        ("a=true", True),
        ("a=None", None),
        ("a=[1,2]", [1, 2]),
        ("a=(1,b)", (1, "b")),
        ("a=x,y", ["x", "y"]),
        ("a=0.9,0.95", [0.9, 0.95]),
        ("a='x','y'", ["x", "y"]),
        ("a=(0.9,0.95)", (0.9, 0.95)),
        ("a=(1,2),(3,4)", [(1, 2), (3, 4)]),
        ("a=1,", [1]),
        ("a=(1,)", (1,)),
        ("a=()", ()),
        ("a=be kind, be brief", "be kind, be brief"),
        ("a=../model", "../model"),
        ("a=你是谁", "你是谁"),
        ("a=b=c", "b=c"),
    ],
)
def test_option_values(text, value):
    assert parse_option(text) == ("a", value)


@pytest.mark.parametrize("package", ["xtuner", "mmengine"])
def test_read_base_takes_names_of_another_file_and_the_text_stands_alone(tmp_path, package):
    (tmp_path / "base.py").write_text("lr = 1\n\ndef f(row):\n    return row\n")
    (tmp_path / "c.py").write_text(
        f"from {package}.config import read_base\nwith read_base():\n    from .base import *\n"
        "double = lr * 2\nmap_fn = f\n"
    )
    config = load_config(tmp_path / "c.py")
    assert (config.lr, config.double) == (1, 2)
    assert parse_config(config.text, "elsewhere.py").double == 2


def test_a_name_of_another_file_may_be_renamed(tmp_path):
    (tmp_path / "base.py").write_text("lr = 1\n")
    (tmp_path / "c.py").write_text("from .base import lr as rate\ndouble = rate * 2\n")
    config = load_config(tmp_path / "c.py")
    assert config == {"rate": 1, "double": 2}
    assert parse_config(config.text, "elsewhere.py") == {"lr": 1, "rate": 1, "double": 2}


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("from . import base", "write 'from .base import \\*' instead of 'from . import base'"),
        ("from .base import lr; double = lr", "on a line of its own"),
        ("if True:\n    from .base import lr", "on a line of its own"),
        ("def f():\n    from .base import lr", "on a line of its own"),
        ("with read_base():\n    from .base import lr\n    double = lr", "nothing but such imports"),
    ],
)
def test_an_import_that_the_saved_config_could_not_hold_is_an_error(tmp_path, text, cure):
    """A work dir's config has the text of the other file in place of the import."""
    (tmp_path / "base.py").write_text("lr = 1\n")
    (tmp_path / "c.py").write_text(f"from mmengine.config import read_base\n{text}\n")
    with pytest.raises(ConfigError, match=cure):
        load_config(tmp_path / "c.py")


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_only_line_breaks_end_a_line_of_a_config(tmp_path, mark):
    """Texts keep the other characters that Python's splitlines takes for breaks, and lines their numbers."""
    (tmp_path / "base.py").write_text(f"system = 'a{mark}b'\nlr = 1\n", encoding="utf-8-sig")
    (tmp_path / "c.py").write_text(
        f"text_ = 'c{mark}d'\nfrom mmengine.config import read_base\n"
        f"with read_base():\n    from .base import *\nlast = 'e{mark}f'\n",
        encoding="utf-8-sig",
    )
    config = load_config(tmp_path / "c.py", {"last": f"g{mark}h"})
    again = parse_config(config.text, "elsewhere.py")
    for one in (config, again):
        assert (one.text_, one.system, one.lr, one.last) == (f"c{mark}d", f"a{mark}b", 1, f"g{mark}h")


def test_an_error_in_the_file_names_its_line():
    with pytest.raises(ConfigError, match=r"c\.py:2: ZeroDivisionError"):
        parse_config("a = 1\nb = a / 0\n", "c.py")
    with pytest.raises(ConfigError, match=r"c\.py:1: "):
        parse_config("a = = 1\n", "c.py")
    with pytest.raises(ConfigError, match=r"c\.py:2: NameError: .*Did you mean 'max_epochs'"):
        parse_config("max_epochs = 1\nb = max_epoch\n", "c.py")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("torch", "import torch"),
        ("LoraConfig", "from peft import LoraConfig"),
        ("AutoTokenizer", "from transformers import AutoTokenizer"),
        ("AdamW", "from torch.optim import AdamW"),
        ("EarlyStoppingHook", "from xtuner.engine.hooks import EarlyStoppingHook"),
        ("KTO", "from xtuner.model.kto import KTO"),
        ("load_dataset", "from xtuner.dataset import load_dataset"),
        ("PROMPT_TEMPLATE", "from xtuner.utils import PROMPT_TEMPLATE"),
    ],
)
def test_a_name_that_is_not_imported_comes_with_its_import(name, line):
    """With the line that the error names, the config loads."""
    text = f"part = dict(type={name})\n"
    with pytest.raises(ConfigError) as error:
        parse_config(text, "c.py")
    assert str(error.value).endswith(f"name '{name}' is not defined. Add the line: {line}")
    assert parse_config(f"{line}\n{text}", "c.py").part.type.resolve()


def test_calling_an_imported_name_says_what_to_write():
    with pytest.raises(ConfigError, match=r"c\.py:1: peft\.LoraConfig is called.*dict\(type=LoraConfig"):
        parse_config("from peft import LoraConfig\nlora = LoraConfig(r=8)\n", "c.py")


def test_a_system_template_can_be_extended():
    config = parse_config(
        "from xtuner.utils import SYSTEM_TEMPLATE\ns = SYSTEM_TEMPLATE.alpaca + 'x'\n", "c.py"
    )
    assert config.s.endswith("\nx")


def test_missing_and_undecodable_files_are_named(tmp_path):
    with pytest.raises(NotFoundError, match=r"there is no config file '.*none\.py'"):
        load_config(tmp_path / "none.py")
    (tmp_path / "c.py").write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path / "c.py")


def test_a_dotted_option_makes_the_dict_that_the_file_does_not_have():
    """Of names that the program reads; the text gives the same again."""
    options = {"val_dataloader.held_out": 0.1, "val_dataloader.batch_size": 2}
    config = parse_config("a = 1\nval_dataloader = None\n", "c.py", options)
    assert config.val_dataloader == {"held_out": 0.1, "batch_size": 2}
    assert parse_config(config.text, "c.py").val_dataloader == config.val_dataloader
    with pytest.raises(ConfigError, match="the config has no 'mine'"):
        parse_config("a = 1\n", "c.py", {"mine.b": 1})


def test_an_option_replaces_a_name_of_a_base_before_what_follows_from_it(tmp_path):
    """As if all stood in one file."""
    (tmp_path / "base.py").write_text("lr = 1e-4\nrates = [lr, 2 * lr]\n")
    own = (
        "from mmengine.config import read_base\nwith read_base():\n    from .base import *\nmine = rates[1]\n"
    )
    (tmp_path / "c.py").write_text(own)
    config = load_config(tmp_path / "c.py", {"lr": 1.0})
    assert (config.lr, config.rates, config.mine) == (1.0, [1.0, 2.0], 2.0)
    assert parse_config(config.text, "elsewhere.py") == config


def test_the_older_form_of_a_base_is_told_and_not_ignored():
    with pytest.raises(ConfigError, match=r"c.py:2: _base_ is not read; import the names of the other file"):
        parse_config("a = 1\n_base_ = ['./other.py']\n", "c.py")


def test_a_typo_is_reported_with_its_line():
    """The line of the import if the imported name does not exist, else the line of use."""
    text = "from xtuner.utils import (\n    {},\n)\n\na = dict(template={}.{})\nb = [torch.optim.AdamWW]\n"
    text = "import torch\n" + text

    def places(*names):
        names_found = Names()
        look_at(dict(parse_config(text.format(names[0], *names), "c.py")), "x", names_found)
        return sorted(fault.message.partition("c.py:")[2].partition(":")[0] for fault in names_found.faults)

    assert places("PROMPT_TEMPLTE", "default") == ["2", "7"]
    assert places("PROMPT_TEMPLATE", "defualt") == ["6", "7"]
