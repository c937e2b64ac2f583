"""A grid of runs: networks x data sets x methods x seeds. ``grid_cells.py`` makes it from a config."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

from afa.config.settings import Settings, setting

GRID = "grid"
"""The block of a config that makes it a grid."""


@dataclass(frozen=True)
class GridSettings:
    """What a grid is made of; the keys stand in ``grid { }``."""

    networks: tuple[str, ...] = setting("networks", "names of networks: defined in the grid, or torchvision's")
    datasets: tuple[str, ...] = setting("datasets", "names of data sets: defined in the grid, or folders")
    methods: tuple[str, ...] = setting("methods", "names of methods: defined in the grid, or a reg_type")
    seeds: int = setting("seeds", "runs of each; run k uses seed + k - 1", default=5, low=1, high=1000)
    name: str = setting("name", "folder of the runs, under outpath; grids may share it", default="")
    published: str = setting("published", "number of the paper's table with the figures to compare with", default="")
    kind: str = setting(
        "kind",
        "what mode=report makes",
        default="table",
        choices=("table", "curves", "images_per_class", "parameters"),
    )


@dataclass(frozen=True)
class GridOptions:
    """What is done with a grid; these keys stand outside, mostly on the command line."""

    mode: str = setting("mode", "train what is missing, or report", default="train", choices=("train", "report"))
    shard: str = setting(
        "shard",
        "<k>/<n>: the k-th of n parts of the runs, k from 1 to n",
        default="1/1",
        pattern=r"[1-9]\d{0,3}/[1-9]\d{0,3}",
    )
    dry_run: bool = setting("dry_run", "only list the runs", default=False)


OPTIONS = frozenset(f.metadata["key"] for f in fields(GridOptions))


class Cell(NamedTuple):
    """One run of a grid: seed number ``seed``, counted from 1, of a network, a data set and a method.

    ``first_seed`` are the settings of the first seed; ``place`` is the folder of all of them.
    """

    network: str
    dataset: str
    method: str
    seed: int
    first_seed: Settings
    place: Path

    def __str__(self) -> str:
        return f"{self.network}, {self.dataset}, {self.method}, seed {self.seed}"

    @property
    def group(self) -> tuple[str, str, str]:
        """What its seeds have in common."""
        return self.network, self.dataset, self.method

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.place / f"seed_{self.seed}"

    @property
    def search_folder(self) -> Path:
        """Folder of the search for alpha, which the seeds share."""
        return self.place / "search"

    @property
    def is_searched(self) -> bool:
        """Whether an alpha is to be chosen."""
        return any(stage.search_alpha for stage in self.first_seed.stages)

    def settings(self, first_seed: Settings | None = None) -> Settings:
        """The run's own settings, from those of the first seed (with the alphas chosen, where these are searched)."""
        base = first_seed or self.first_seed
        stages = tuple(replace(stage, seed=stage.seed + self.seed - 1) for stage in base.stages)
        run = replace(base.run, outpath=str(self.place), exp_id=self.folder.name)
        return replace(base, stages=stages, run=run)


@dataclass(frozen=True)
class Grid:
    """The runs, and where the report goes.

    ``cells`` have the seeds outermost, so that the first of each group are done first. The report's files are
    ``report`` with an ending.
    """

    grid: GridSettings
    options: GridOptions
    cells: tuple[Cell, ...]
    report: Path
