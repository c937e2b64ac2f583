"""A part of the demo's grid, two runs at a time (``jobs = 2``) against one after the other (``jobs = 1``).

``python benchmarks/grid.py``: three methods of ``hocon_config/demo/methods.hocon`` with two seeds, and the search for
the alpha of AST: 12 runs of 24 epochs. Both sides use all cores: with one job, each run has all threads. The goal is
1.5 on two cores.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from timing import cost, in_turn, median, ratio, write

from afa.results.outcomes import format_table

ROOT = Path(__file__).parents[1]


def train(arguments: list[str], jobs: int) -> None:
    """Train the part in a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "main.py", "hocon_config/demo/methods.hocon", *arguments, f"jobs={jobs}"]
        subprocess.run([*command, f"outpath={folder}", "quiet=true"], cwd=ROOT, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["L2", "AST", "AFA"])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="pairs")
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/grid.json"))
    parser.add_argument("keys", nargs="*", help="key=value, for example max_iter=10")
    options = parser.parse_args()
    part = [f"grid.methods={json.dumps(options.methods)}", f"grid.seeds={options.seeds}", "gpu_id=cpu", *options.keys]
    sides = {jobs: partial(cost, partial(train, part, jobs)) for jobs in (1, options.jobs)}
    costs = in_turn({f"jobs = {jobs}": side for jobs, side in sides.items()}, options.repeats, warm_up=0)
    one, several = costs.values()
    times = ratio(one, several).wall
    rows = [[name, f"{median(each).wall:.0f}"] for name, each in costs.items()]
    print(format_table(["", "seconds"], rows))
    print(f"{times:.2f} times as fast (median of {options.repeats} pairs)")
    write(options.json, seconds={name: [each.wall for each in of] for name, of in costs.items()}, times=times)


if __name__ == "__main__":
    main()
