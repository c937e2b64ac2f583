"""All benchmarks, one after the other, for the machine at hand: under 20 minutes on two cores that are free.

``python benchmarks/run.py`` prints the tables and writes JSON to ``runs/benchmarks/``.
"""

import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
PARTS: tuple[tuple[str, ...], ...] = (
    ("startup.py",),
    ("images.py",),
    ("step.py", "--networks", "mobilenet_v2", "--repeats", "10", "--json", "runs/benchmarks/step_mobilenet_v2.json"),
    ("step.py", "--networks", "resnet101", "--json", "runs/benchmarks/step_resnet101.json"),
    ("evaluation.py",),
    ("scaling.py",),
    ("channel_importance.py",),
)
"""A script of this folder and its arguments."""


def main() -> None:
    failed = []
    for script, *words in PARTS:
        begun = time.monotonic()
        print(f"== {' '.join((script, *words))}", flush=True)
        done = subprocess.run([sys.executable, str(HERE / script), *words], cwd=HERE.parent, check=False)
        print(f"{time.monotonic() - begun:.0f} s\n", flush=True)
        failed += [script] * (done.returncode != 0)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
