"""Compare the estimates of a dry run with the run: seconds and peak memory, for L2, AST, DELTA and AFA on the demo.

    python benchmarks/estimates.py                          # on an idle machine: about half an hour on two cores
    python benchmarks/estimates.py --methods DELTA --overrides epochs=2 image_size=64

The dry run and the run are processes of their own. The page of a run is not written (``report=false``).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from timing import write

from afa.results.outcomes import format_table

ROOT = Path(__file__).parents[1]
METHODS = {
    "L2": ("hocon_config/demo/ast.hocon", "reg_type=l2"),
    "AST": ("hocon_config/demo/ast.hocon",),
    "DELTA": ("hocon_config/demo/ast.hocon", "reg_type=delta", "alpha=0.001"),
    "AFA": ("hocon_config/demo/afa.hocon",),
}
HEADER = ["method", "s, dry run", "s, run", "ratio", "MiB, dry run", "MiB, run", "ratio"]


def measure(arguments: list[str]) -> None:
    """In a process of its own: print the seconds and the peak memory (MiB) of a run, or those that it estimates."""
    import resource

    from afa.config.hocon import load_settings
    from afa.entry import run

    settings = load_settings(arguments[0], arguments[1:])
    started = time.monotonic()
    found = run(settings)
    if settings.run.dry_run:
        print(json.dumps([found["seconds"], found["memory_bytes"] / 2**20]))
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps([time.monotonic() - started, peak]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--overrides", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/estimates.json"))
    arguments = parser.parse_args()
    rows = []
    for method in arguments.methods:
        figures = []
        for dry_run in ("true", "false"):
            with tempfile.TemporaryDirectory(prefix="afa_estimates_") as out:
                words = [*METHODS[method], f"outpath={out}", f"dry_run={dry_run}", "report=false", "quiet=true"]
                command = [sys.executable, __file__, "measure", *words, *arguments.overrides]
                done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
                figures.append(json.loads(done.stdout.splitlines()[-1]))
        (seconds, memory), (real_seconds, real_memory) = figures
        rows.append([method, seconds, real_seconds, seconds / real_seconds, memory, real_memory, memory / real_memory])
        print(format_table(HEADER, [[row[0], *(f"{value:.2f}" for value in row[1:])] for row in rows]), flush=True)
    write(arguments.json, estimates={"header": HEADER, "rows": rows})


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(sys.argv[2:])
    else:
        main()
