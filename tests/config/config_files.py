"""Configs that tests write into the working directory."""

from pathlib import Path

import pytest

from afa.config.hocon import load_settings
from afa.errors import ConfigError

BASE = 'target_dataset = "CUB"\ntarget_data_dir = "data"\nbase_model_name = "resnet50"\nreg_type = "ast"\nalpha = 0.1\n'


def write(text: str, name: str = "c.hocon") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return path


def refused(path: str | Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_settings(path, overrides)
    assert all("\n" not in line for line in caught.value.lines)
    return caught.value.lines
