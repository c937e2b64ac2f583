"""Where a run's files are, and the one rule by which ``pre_trained_path`` finds a checkpoint."""

import glob
from pathlib import Path

from afa.errors import ConfigError

SETTINGS = "settings.log"
RESULT = "result.json"
BEST = Path("check_point", "best.pth")
LAST = Path("check_point", "last.pth")
PREVIOUS = Path("check_point", "previous.pth")


def stage_folder(run: Path, *, repeat: int, repeats: int, stage: int, stages: int) -> Path:
    """Folder of one stage of one repeat, both counted from 1: the run's own where it has only one of them."""
    folder = run / f"repeat_{repeat}" if repeats > 1 else run
    return folder / f"stage_{stage}" if stages > 1 else folder


def find_checkpoint(pre_trained_path: str, outpath: str, repeat: int = 1) -> Path:
    """The checkpoint that ``pre_trained_path`` means.

    A file is taken as it is. Otherwise it is a run: a folder, looked for as written and
    then under ``outpath``. Of a run the best checkpoint is taken, of its last stage, and
    of the same repeat where it has several.

    Raises:
        ConfigError: there is none; says where it was looked for.
    """
    named = Path(pre_trained_path)
    if named.is_file():
        return named
    for run in (named, Path(outpath) / named):
        for folder in (run / f"repeat_{repeat}", run):
            for candidate in (folder / "stage_2" / BEST, folder / BEST):
                if candidate.is_file():
                    return candidate
    places = f"{named} and {Path(outpath) / named / BEST}"
    raise ConfigError(f"no checkpoint at {places}; train the stage before first, or name its file")


def matching(wanted: str) -> list[Path]:
    """The file or folder of that name, or what a pattern such as ``photos/**/*.jpg`` matches."""
    if Path(wanted).exists():
        return [Path(wanted)]
    return [Path(name) for name in glob.glob(wanted, recursive=True)]  # noqa: PTH207 (Path.glob takes no absolute one)
