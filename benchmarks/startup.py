"""Time the start of the program: until the help text, a config error, and the first step of a warm demo.

*Warm*: the demo was started before, so the system has cached the files, and ``cache = disk`` the decoded images.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from timing import cost, median, write

from afa.results.outcomes import format_table

ROOT = Path(__file__).parents[1]
LIMITS = {"python main.py --help": 1.0, "a config error": 2.0, "the demo's first step, warm": 10.0}
"""Longest time that the project accepts, in seconds."""


def run_to_the_end(*arguments: str) -> None:
    """Run the program and ignore its exit status."""
    subprocess.run([sys.executable, "main.py", *arguments], cwd=ROOT, capture_output=True, check=False)


def run_to_the_first_step(folder: Path) -> None:
    """Run the demo in a new run folder until ``experiment.log`` contains its first step."""
    outpath, cache = tempfile.mkdtemp(dir=folder), folder / "cache"
    arguments = [
        "hocon_config/demo/ast.hocon",
        f"outpath={outpath}",
        "print_freq=1",
        "cache=disk",
        f"cache_dir={cache}",
    ]
    run = subprocess.Popen([sys.executable, "main.py", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
    log = Path(outpath) / "demo_ast" / "experiment.log"
    try:
        while not (log.exists() and " step 1/" in log.read_text()):
            if run.poll() is not None:
                raise SystemExit(f"the demo ended before its first step, see {log}")
            time.sleep(0.02)
    finally:
        run.kill()
        run.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/startup.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="afa_startup_") as folder:
        run_to_the_first_step(Path(folder))
        works = (
            lambda: run_to_the_end("--help"),
            lambda: run_to_the_end("hocon_config/demo/ast.hocon", "no_such_key=1"),
            lambda: run_to_the_first_step(Path(folder)),
        )
        seconds = {
            name: median([cost(work) for _ in range(arguments.repeats)])
            for name, work in zip(LIMITS, works, strict=True)
        }
    rows = [[name, f"{value.wall:.2f}", f"{value.cpu:.2f}", f"{LIMITS[name]:g}"] for name, value in seconds.items()]
    print(format_table(["start-up", "seconds", "CPU s", "limit"], rows))
    write(arguments.json, repeats=arguments.repeats, seconds=seconds)


if __name__ == "__main__":
    main()
