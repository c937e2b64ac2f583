"""Commands of small runs that last some seconds."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIGS = {
    "one": str(ROOT / "tests/tiny.hocon"),
    "two": str(ROOT / "hocon_config/AFA/mobilenet_v2_stanford_dogs_120.hocon"),
}
"""A run of one stage, and of two."""
STEPS = 6  # in an epoch


def commands(words: list[str], outpath: Path) -> dict[str, list[str]]:
    """Arguments of the command line for each kind of run."""
    return {name: [config, *words, f"outpath={outpath}"] for name, config in CONFIGS.items()}


def one_line(text: str) -> str:
    """The only line of ``text``."""
    assert text.count("\n") == 1, text
    return text.rstrip("\n")
