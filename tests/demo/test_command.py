from __future__ import annotations

import pytest

from xtuner.errors import ConfigError
from xtuner.tools.demo import main


@pytest.mark.parametrize("kind", ["--preference", "--vision"])
def test_a_name_without_effect_is_refused(kind, tmp_path):
    """Only the demo of the name takes one; nothing is written."""
    with pytest.raises(ConfigError, match=f"--name has no effect with {kind}: leave one of them out"):
        main([kind, "--name", "Ada", "--work-dir", str(tmp_path / "demo")])
    assert list(tmp_path.iterdir()) == []


def test_one_demo_at_a_time(capsys):
    """Two kinds are an error of the command line."""
    with pytest.raises(SystemExit):
        main(["--preference", "--vision"])
    assert "not allowed with argument" in capsys.readouterr().err
