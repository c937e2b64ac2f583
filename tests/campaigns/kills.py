"""Fifty kills: AST and ACT of the demo, killed at random moments and run again, against a run nothing happened to.

    python tests/campaigns/kills.py [--kills 50] [--seed 1] [--out runs/campaigns]

Each run is killed one to three times, by SIGKILL to the process or to its whole group, then
left to end. It must have the weights, optimiser, log.txt, TensorBoard scalars and lines of
steps and epochs of the undisturbed run. Exit status 1 if one has not.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.same import assert_the_same, told  # noqa: E402

VARIANTS = (
    ("num_workers=0", "cache=memory"),
    ("num_workers=0", "cache=none"),
    ("num_workers=1", "cache=none"),
    ("num_workers=2", "cache=none"),
)
INTERVALS = ("1 steps", "3 steps", "10 minutes")


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
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.log = (folder / "output.txt").open("w")
        for split, count in (("train", 10), ("test", 2)):
            for source in sorted((ROOT / "demo/fashion_mnist_20shot" / split).iterdir()):
                target = folder / "data/small" / split / source.name
                target.mkdir(parents=True)
                for image in sorted(source.iterdir())[:count]:
                    shutil.copy(image, target)

    def start(self, name: str, *options: str) -> subprocess.Popen:
        """The demo's config, both stages of two epochs of seven steps, in a process group of its own."""
        words = f"target_data_dir={self.folder / 'data'} target_dataset=small outpath={self.folder} exp_id={name} "
        words += "image_size=32 batch_size=16 max_iter=14 alpha=1e-5 lr=0.001 gpu_id=cpu print_freq=1"
        command = [sys.executable, "main.py", "hocon_config/demo/afa.hocon", *words.split(), *options]
        return subprocess.Popen(
            command, cwd=ROOT, env=self.environment, stdout=self.log, stderr=self.log, start_new_session=True
        )

    def undisturbed(self) -> float:
        """Run ``whole`` and return the seconds from its first line on."""
        process = self.start("whole", *VARIANTS[0])
        self.wait_for_start("whole", process)
        started = time.monotonic()
        if process.wait():
            raise SystemExit(f"the undisturbed run failed; see {self.log.name}")
        return time.monotonic() - started

    def wait_for_start(self, name: str, process: subprocess.Popen) -> None:
        """Until the run has taken its folder; importing torch takes as long as all the rest."""
        lock, before = self.folder / name / ".lock", time.time()
        while process.poll() is None and not (lock.exists() and lock.stat().st_mtime >= before - 1):
            time.sleep(0.01)

    def kill(self, name: str, run: Run, seconds: float) -> bool:
        """Start or go on with a run and kill it within ``seconds``; False if it ended before."""
        process = self.start(name, *run.options)
        self.wait_for_start(name, process)
        try:
            process.wait(self.chance.uniform(0, seconds))
            return False
        except subprocess.TimeoutExpired:
            whole_group = self.chance.random() < 0.5
            (os.killpg if whole_group else os.kill)(process.pid, signal.SIGKILL)
            process.wait()
            log = self.folder / name / "experiment.log"
            lines = told(self.folder / name) if log.exists() else []
            moment = lines[-1].partition(": ")[0] if lines else "before the first step"
            left = sorted(path.name for path in (self.folder / name).rglob("*.tmp"))
            run.moments.append(moment + (f" ({', '.join(left)} half written)" if left else ""))
            return True

    def one_run(self, name: str, seconds: float, most: int) -> Run:
        """Kill a run up to ``most`` times, let it end, and compare."""
        options = (*self.chance.choice(VARIANTS), f"checkpoint_every={self.chance.choice(INTERVALS)}")
        run = Run(options)
        kills = min(self.chance.randint(1, 3), most)
        while len(run.moments) < kills and self.kill(name, run, seconds):
            pass
        if self.start(name, *options).wait() == 0:
            try:
                assert_the_same(self.folder / name, self.folder / "whole")
                run.same = True
            except AssertionError as error:
                print(f"{name}: {error}", file=sys.stderr)
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
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "runs/campaigns")
    words = parser.parse_args()
    folder = words.out.resolve() / time.strftime("kills-%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    campaign, started = Campaign(folder, words.seed), time.monotonic()
    seconds = campaign.undisturbed()
    runs: list[Run] = []
    while (left := words.kills - sum(len(run.moments) for run in runs)) > 0:
        runs.append(campaign.one_run(f"run_{len(runs) + 1}", seconds, left))
        print(f"run {len(runs)}: {runs[-1]}", flush=True)
    text = table(runs, time.monotonic() - started)
    (folder / "kills.md").write_text(text)
    print(text)
    return 0 if all(run.same for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
