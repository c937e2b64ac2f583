"""Train with every alpha on several data sets, choose one alpha on held-out images, and judge it on the test images.

    python benchmarks/alpha_study.py [--shard 1/2] [--methods AST ACT AFA] [--alphas 1 3 10 30 100 300] [--seeds 3]
    python benchmarks/alpha_study.py --report

The data sets of produce are made once, from an archive of the Grocery Store Dataset:

    python main.py prepare=grocery_store archive=<zip or folder> target_data_dir=data subset=produce images_per_class=20
    python main.py prepare=grocery_store archive=<zip or folder> target_data_dir=data subset=produce images_per_class=10

Every run is an ordinary run in ``runs/alpha_study/<data set>/<method>_<alpha>_<seed>``: an interrupted one is resumed,
a finished one is kept, and shards may run on several machines. A run that diverges leaves ``<run>.not_finite``.

One alpha is chosen for all data sets and methods: the highest mean top-1 on held-out images, over the values up to 100.
It is judged on the test images: its paired difference to the best alpha of each data set and method is at most one
point, or the difference's 95 % t-interval contains 0; and up to ten times the chosen value all runs are finite, with a
last training loss below the first.
"""

import argparse
import csv
import itertools
import math
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))
from afa.commands.algorithm import execute
from afa.commands.finished_run import read_finished_run
from afa.config.hocon import load_settings
from afa.config.settings import Settings
from afa.errors import NotFiniteError
from afa.files import write_text
from afa.grid.comparison import Difference, paired_difference
from afa.results.outcomes import format_table, spread
from afa.results.run_folder import RunFolder

ROOT = Path(__file__).parents[1]
OUT = Path("runs/alpha_study")
CHOICES = 100.0
"""The largest value that can be chosen; larger ones show what diverges."""

COMMON = ("alignment_scale=relative", "stage_start=last", "lr=0.01", "report=false", "quiet=true")
SETS: dict[str, tuple[int, tuple[str, ...]]] = {
    "fashion_mnist": (24, ("validation_fraction=0.2",)),
    "produce": (20, ("target_dataset=Grocery_Store-produce-20", "image_size=112", "batch_size=32")),
    "produce_10": (30, ("target_dataset=Grocery_Store-produce-10", "image_size=128", "batch_size=32")),
}
"""Data set -> epochs, settings. Those of produce hold out the images of ``val``."""
METHODS = ("AST", "ACT", "AFA")


class Key(NamedTuple):
    """One run."""

    data_set: str
    method: str
    alpha: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.method}_{self.alpha:g}_{self.seed}"


class Outcome(NamedTuple):
    """What a run ended with: top-1 in percent of the last epoch, and whether the training loss of each stage fell."""

    held_out: float
    test: float
    learned: bool


def settings_of(key: Key, options: argparse.Namespace) -> Settings:
    """Two-stage methods train for as many epochs as the others: three quarters in stage one."""
    epochs, own = SETS[key.data_set]
    epochs = options.epochs or epochs
    data = [] if key.data_set == "fashion_mnist" else [f"target_data_dir={options.data}"]
    if key.method == "AFA":
        first = max(round(0.75 * epochs), 1)
        stages = [
            f"first_stage.epochs={first}",
            f"second_stage.epochs={max(epochs - first, 1)}",
            "second_stage.lr=0.001",
        ]
    else:
        stages = [f"epochs={epochs}"]
    words = [f"reg_type={key.method.lower()}", f"alpha={key.alpha:g}", f"seed={key.seed}", f"test_every={epochs}"]
    run = [f"outpath={options.out / key.data_set}", f"exp_id={key.name}", *options.overrides]
    return load_settings(ROOT / "hocon_config/demo/shared.hocon", [*COMMON, *data, *own, *stages, *words, *run])


def marker(settings: Settings) -> Path:
    """Exists if the run diverged."""
    return settings.run_path.with_name(f"{settings.run_name}.not_finite")


def train(keys: list[Key], options: argparse.Namespace) -> None:
    """Train the runs of this shard that are not finished."""
    shard, shards = map(int, options.shard.split("/"))
    for key in keys[shard - 1 :: shards]:
        settings = settings_of(key, options)
        if marker(settings).exists():
            continue
        print(f"{key.data_set} {key.name}", flush=True)
        try:
            execute(settings)
        except NotFiniteError as error:
            write_text(marker(settings), f"{error}\n")
            print(error, flush=True)


def read(key: Key, options: argparse.Namespace) -> Outcome | None:
    """Outcome of a run, all NaN if it diverged; None if it is not finished."""
    settings = settings_of(key, options)
    if marker(settings).exists():
        return Outcome(math.nan, math.nan, False)
    if not RunFolder(settings.run_path).result.exists():
        return None
    (stages,) = read_finished_run(settings.run_path).repeats
    learned = True
    for stage in stages:
        with stage.folder.log_txt.open() as file:
            losses = [float(row["train_total_loss"]) for row in csv.DictReader(file, delimiter="\t")]
        learned &= len(losses) == 1 or losses[-1] < losses[0]
    last = stages[-1].result.last
    return Outcome(last.selection_top1, last.test_top1, learned)


class Tried(NamedTuple):
    """One alpha on one data set with one method; NaN if a seed diverged.

    ``difference`` is to the best alpha, over the seeds that both have.
    """

    held_out: float
    test: list[float]
    difference: Difference | None
    learned: list[bool]

    @property
    def passed(self) -> bool:
        found = self.difference
        return found is not None and (found.mean >= -1 or (found.n > 1 and found.low <= 0 <= found.high))


def compare(outcomes: dict[float, dict[int, Outcome]]) -> dict[float, Tried]:
    """Alpha -> seed -> outcome, on one data set with one method."""
    means = {alpha: statistics.fmean(one.test for one in own.values()) for alpha, own in outcomes.items()}
    choices = [alpha for alpha, mean in means.items() if alpha <= CHOICES and math.isfinite(mean)]
    best = outcomes[max(choices, key=lambda alpha: means[alpha])] if choices else {}
    best_tops = {seed: one.test for seed, one in best.items()}
    tried = {}
    for alpha, own in outcomes.items():
        tops = {seed: one.test for seed, one in own.items()}
        difference = paired_difference(tops, best_tops) if math.isfinite(means[alpha]) else None
        held_out = statistics.fmean(one.held_out for one in own.values())
        tried[alpha] = Tried(held_out, list(tops.values()), difference, [one.learned for one in own.values()])
    return tried


def choose(tried: list[dict[float, Tried]]) -> float:
    """The alpha with the highest mean on held-out images over data sets and methods, of those that all of them have."""
    means = {
        alpha: statistics.fmean(own[alpha].held_out for own in tried)
        for alpha in tried[0]
        if alpha <= CHOICES and all(alpha in own for own in tried)
    }
    finite = {alpha: mean for alpha, mean in means.items() if math.isfinite(mean)}
    if not finite:
        raise SystemExit("no alpha is finished and finite on all data sets")
    return max(finite, key=lambda alpha: finite[alpha])


def report(keys: list[Key], options: argparse.Namespace) -> None:
    """Print the table, the choice and the verdict."""
    outcomes: dict[tuple[str, str], dict[float, dict[int, Outcome]]] = {}
    missing = 0
    for key in keys:
        outcome = read(key, options)
        missing += outcome is None
        if outcome:
            outcomes.setdefault(key[:2], {}).setdefault(key.alpha, {})[key.seed] = outcome
    if missing:
        print(f"{missing} of {len(keys)} runs are not finished; the table has the others")
    if not outcomes:
        return
    tried = {group: compare(own) for group, own in outcomes.items()}
    chosen = choose(list(tried.values()))
    rows = [
        [
            *group,
            f"{alpha:g}",
            f"{one.held_out:.2f}",
            _spread(one.test),
            str(one.difference or "-"),
            f"{sum(one.learned)} of {len(one.learned)}",
        ]
        for group, own in tried.items()
        for alpha, one in own.items()
    ]
    header = ["data set", "method", "alpha", "held-out top-1 %", "test top-1 %", "to the best alpha", "loss fell"]
    print(f"{format_table(header, rows)}\nchosen on held-out images: alpha = {chosen:g}")
    for group, own in tried.items():
        one = own[chosen]
        print(f"{'passed' if one.passed else 'FAILED'}: {', '.join(group)}: {one.difference} points to its best alpha")
    tested = {
        (*group, alpha): one for group, own in tried.items() for alpha, one in own.items() if alpha <= 10 * chosen
    }
    failed = [
        f"{data_set} {method} {alpha:g}" for (data_set, method, alpha), one in tested.items() if not all(one.learned)
    ]
    print(f"FAILED: did not learn: {', '.join(failed)}" if failed else "passed: every run learned")
    print(
        f"the largest alpha tested is {max(key[-1] for key in tested):g}; ten times the chosen one is {10 * chosen:g}"
    )


def _spread(values: list[float]) -> str:
    return str(spread(values)) if all(map(math.isfinite, values)) else "not finite"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--alphas", nargs="+", type=float, default=[1, 3, 10, 30, 100, 300])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=0, help="0: those of the data set")
    parser.add_argument("--data", default="data", help="target_data_dir of the data sets of produce")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--shard", default="1/1", help="<k>/<n>")
    parser.add_argument("--report", action="store_true", help="train nothing")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of all runs")
    options = parser.parse_args()
    axes = (range(1, options.seeds + 1), options.sets, options.methods, options.alphas)  # the first seed of all first
    keys = [Key(data_set, method, alpha, seed) for seed, data_set, method, alpha in itertools.product(*axes)]
    if not options.report:
        train(keys, options)
    report(keys, options)


if __name__ == "__main__":
    main()
