"""Seconds until the program answers: its help, a config error, the first step of a warm demo.

*Warm*: the demo was started before, so the files and, with ``cache = disk``, the decoded images are at hand.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from timing import write

from afa.results.figures import format_table

ROOT = Path(__file__).parents[1]
LIMITS = {"python main.py --help": 1.0, "a config error": 2.0, "the demo's first step, warm": 10.0}
"""What is promised, in seconds."""


def until_it_ends(*words: str) -> float:
    """Seconds a command takes; that it fails is no matter."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "main.py", *words], cwd=ROOT, capture_output=True, check=False)
    return time.perf_counter() - begun


def until_first_step(folder: str) -> float:
    """Seconds until ``experiment.log`` tells of the demo's first step; the run is ended then."""
    words = ["hocon_config/demo/ast.hocon", f"outpath={folder}", "print_freq=1", "overwrite=true", "cache=disk"]
    begun = time.perf_counter()
    run = subprocess.Popen([sys.executable, "main.py", *words], cwd=ROOT, stdout=subprocess.DEVNULL)
    log = Path(folder) / "demo_ast" / "experiment.log"
    try:
        while not (log.exists() and " step 1/" in log.read_text()):
            if run.poll() is not None:
                raise SystemExit(f"the demo ended before its first step, see {log}")
            time.sleep(0.02)
        return time.perf_counter() - begun
    finally:
        run.kill()
        run.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/startup.json"))
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="afa_startup_") as folder:
        until_first_step(folder)
        works = (
            lambda: until_it_ends("--help"),
            lambda: until_it_ends("hocon_config/demo/ast.hocon", "no_such_key=1"),
            lambda: until_first_step(folder),
        )
        seconds = {
            name: statistics.median(work() for _ in range(words.repeats))
            for name, work in zip(LIMITS, works, strict=True)
        }
    rows = [[name, f"{value:.2f}", f"{LIMITS[name]:g}"] for name, value in seconds.items()]
    print(format_table(["start-up", "seconds", "promised"], rows))
    write(words.json, torch.device("cpu"), repeats=words.repeats, seconds=seconds)


if __name__ == "__main__":
    main()
