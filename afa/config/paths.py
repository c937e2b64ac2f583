"""Whether the files and folders that the settings name are there, before anything is started."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from afa.config.layout import find_checkpoint
from afa.config.values import Problem, nearest
from afa.errors import ConfigError


def check_paths(checked: Mapping[str, Any]) -> list[Problem]:
    """Problems of the paths among values that are right by themselves; keys may be missing."""
    problems = check_dataset(checked.get("target_data_dir"), checked.get("target_dataset"))
    for key in ("source_weights", "channel_weight_path"):
        if checked.get(key) and not Path(checked[key]).is_file():
            problems.append(Problem(key, f"no such file: {checked[key]}"))
    if checked.get("pre_trained_path"):
        try:
            find_checkpoint(checked["pre_trained_path"], checked.get("outpath", "runs"))
        except ConfigError as error:
            problems.append(Problem("pre_trained_path", str(error)))
    return problems


def check_dataset(root: str | None, dataset: str | None) -> list[Problem]:
    """Whether the folder of the data sets is there, and the data set in it."""
    if root is None:
        return []
    if not Path(root).is_dir():
        return [
            Problem(
                "target_data_dir", f"no such folder: {root}; it holds <target_dataset>/train/<class>/*.jpg and /test/"
            )
        ]
    if dataset is None or (Path(root) / dataset).is_dir():
        return []
    known = sorted(path.name for path in Path(root).iterdir() if path.is_dir())
    there = ", ".join(known[:10]) or "no folder"
    return [Problem("target_dataset", f"no folder {dataset} in {root}{nearest(dataset, known)} (there: {there})")]
