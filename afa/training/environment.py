"""What a run's figures were made with: card, versions, source code, command."""

import platform
import subprocess
from pathlib import Path

import torch
import torchvision

import afa

_ROOT = Path(afa.__file__).parents[1]


def environment(device: torch.device, command: str) -> dict[str, str]:
    """Name -> text; ``command`` is what was typed, empty where the run was started from Python."""
    return {
        "device": device_name(device),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "afa": afa.__version__,
        "source_code": source_code(_ROOT),
        "command": command,
    }


def device_name(device: torch.device) -> str:
    """The card's name, or how many threads the CPU works with."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({torch.get_num_threads()} threads)"


def source_code(root: Path) -> str:
    """The git commit of a working tree, and how many files differ from it; that it is none, where it is none."""
    if not (root / ".git").exists():
        return "no git working tree"
    try:
        commit, changes = (_git(root, *words) for words in (("rev-parse", "HEAD"), ("status", "--porcelain")))
    except (OSError, subprocess.SubprocessError):
        return "unknown: git cannot be asked"
    changed = len(changes.splitlines())
    return f"commit {commit.strip()}" + (f", {changed} files changed since" if changed else "")


def _git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
