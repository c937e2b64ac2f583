"""Run all benchmarks one after the other: less than 20 minutes on two idle cores.

``python benchmarks/run.py`` prints the tables and writes JSON to ``runs/benchmarks/``.
"""

import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).parent
BENCHMARKS: tuple[tuple[str, ...], ...] = (
    ("startup.py",),
    ("images.py",),
    ("step.py", "--networks", "mobilenet_v2", "--repeats", "10", "--json", "runs/benchmarks/step_mobilenet_v2.json"),
    ("step.py", "--networks", "resnet101", "--json", "runs/benchmarks/step_resnet101.json"),
    ("evaluation.py",),
    ("scaling.py",),
    ("channel_importance.py",),
)
"""Scripts of this folder with their arguments."""


def main() -> None:
    failed = []
    for script, *arguments in BENCHMARKS:
        start = time.monotonic()
        print(f"== {' '.join((script, *arguments))}", flush=True)
        done = subprocess.run([sys.executable, str(FOLDER / script), *arguments], cwd=FOLDER.parent, check=False)
        print(f"{time.monotonic() - start:.0f} s\n", flush=True)
        failed += [script] * (done.returncode != 0)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
