"""A hundred kills: AST and ACT of the demo, killed at random moments and run again, against a run nothing happened to.

    python tests/campaigns/kills.py [--kills 100] [--seed 1] [--out runs/campaigns]

Each run is killed one to three times, by SIGKILL to the process or to its process group, then
left to end. It must have the weights, optimiser, log.txt, TensorBoard scalars, tables, results and lines of
steps and epochs of the undisturbed run. Exit status 1 if one has not, or hangs for ten minutes.
"""

import argparse
import random
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.processes import Program  # noqa: E402
from tests.same import assert_the_same, logged_lines  # noqa: E402

VARIANTS = (
    ("num_workers=0", "cache=memory"),
    ("num_workers=0", "cache=none"),
    ("num_workers=1", "cache=none"),
    ("num_workers=2", "cache=none"),
)
INTERVALS = ("1 steps", "3 steps", "10 minutes")
LIMIT = 600
"""Seconds after which a run that has not ended hangs; one lasts some seconds."""


@dataclass
class Run:
    """A run, how it was made, where each kill struck, and whether it ended as it should."""

    options: tuple[str, ...]
    moments: list[str] = field(default_factory=list)
    same: bool = False


class Campaign:
    """A small copy of the demo's data, and commands on it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.chance = folder, random.Random(seed)
        self.seconds = 0.0  # that the last uninterrupted run took, from its first line on
        for split, count in (("train", 6), ("test", 2)):
            for source in sorted((ROOT / "demo/fashion_mnist_20shot" / split).iterdir()):
                target = folder / "data/small" / split / source.name
                target.mkdir(parents=True)
                for image in sorted(source.iterdir())[:count]:
                    shutil.copy(image, target)

    def start(self, name: str, *options: str) -> Program:
        """The demo's config, both stages of two epochs of four steps, in a process group of its own."""
        words = f"target_data_dir={self.folder / 'data'} target_dataset=small outpath={self.folder} exp_id={name} "
        words += "image_size=32 batch_size=16 max_iter=8 alpha=1e-5 lr=0.001 gpu_id=cpu print_freq=1 report=false"
        program = Program([str(ROOT / "hocon_config/demo/afa.hocon"), *words.split(), *options], self.folder)
        # Until the run has taken its folder.
        lock, before = self.folder / name / ".lock", time.time()
        while program.status is None and not (lock.exists() and lock.stat().st_mtime >= before - 1):
            assert time.time() < before + LIMIT, "does not start"
            time.sleep(0.01)
        return program

    def undisturbed(self) -> None:
        """Run ``undisturbed``, with which the other runs are compared."""
        process, started = self.start("undisturbed", *VARIANTS[0]), time.monotonic()
        if process.wait(LIMIT):
            raise SystemExit(f"the undisturbed run failed: {process.errors}")
        self.seconds = time.monotonic() - started

    def kill(self, name: str, run: Run) -> bool:
        """Start or continue a run and kill it at a random moment; False if it ended before."""
        process, started = self.start(name, *run.options), time.monotonic()
        until = started + self.chance.uniform(0, self.seconds)
        while process.status is None and time.monotonic() < until:
            time.sleep(0.005)
        if process.status is not None:
            assert process.status == 0, f"exit status {process.status}"
            self.seconds = time.monotonic() - started if not run.moments else self.seconds
            return False
        process.send(signal.SIGKILL, to_group=self.chance.random() < 0.5)
        process.wait()
        log = self.folder / name / "experiment.log"
        lines = logged_lines(self.folder / name) if log.exists() else []
        moment = lines[-1].partition(": ")[0] if lines else "before the first step"
        left = sorted(path.name for path in (self.folder / name).rglob("*.tmp"))
        run.moments.append(moment + (f" ({', '.join(left)} half written)" if left else ""))
        return True

    def one_run(self, name: str, most: int) -> Run:
        """Kill a run up to ``most`` times, let it end, and compare."""
        options = (*self.chance.choice(VARIANTS), f"checkpoint_every={self.chance.choice(INTERVALS)}")
        run = Run(options)
        kills = min(self.chance.randint(1, 3), most)
        try:
            while len(run.moments) < kills and self.kill(name, run):
                pass
            process = self.start(name, *options)
            assert (status := process.wait(LIMIT)) == 0, f"exit status {status}"
            assert_the_same(self.folder / name, self.folder / "undisturbed")
            run.same = True
        except Exception as error:  # whatever it is, the run is not the same
            print(f"{name}: {error}; see {self.folder}", file=sys.stderr)
        if run.same:
            shutil.rmtree(self.folder / name)
        return run


def table(runs: list[Run], seconds: float) -> str:
    """Markdown: a row for each set of options, and the moments."""
    lines = ["| num_workers, cache | checkpoint_every | runs | kills | identical |", "|---|---|---|---|---|"]
    for options in sorted({run.options for run in runs}):
        own = [run for run in runs if run.options == options]
        workers, cache, every = (option.partition("=")[2] for option in options)
        kills, same = sum(len(run.moments) for run in own), sum(run.same for run in own)
        lines.append(f"| {workers}, {cache} | {every} | {len(own)} | {kills} | {same} of {len(own)} |")
    moments = [moment for run in runs for moment in run.moments]
    lines += ["", f"{len(moments)} kills in {len(runs)} runs, {sum(run.same for run in runs)} of them identical"]
    lines += [f"{sum('half written' in moment for moment in moments)} kills left a file half written"]
    lines += [
        f"in AST: {sum(m.startswith('AST') for m in moments)}, in ACT: {sum(m.startswith('ACT') for m in moments)}"
    ]
    lines += [f"{seconds / 60:.0f} minutes", "", *moments]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "runs/campaigns")
    words = parser.parse_args()
    folder = words.out.resolve() / time.strftime("kills-%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    campaign, started = Campaign(folder, words.seed), time.monotonic()
    campaign.undisturbed()
    runs: list[Run] = []
    while (left := words.kills - sum(len(run.moments) for run in runs)) > 0:
        runs.append(campaign.one_run(f"run_{len(runs) + 1}", left))
        print(f"run {len(runs)}: {runs[-1]}", flush=True)
    text = table(runs, time.monotonic() - started)
    (folder / "kills.md").write_text(text)
    print(text)
    return 0 if all(run.same for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
