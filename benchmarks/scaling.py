"""Compare the training speed of one and two processes on a CPU, on the images of the demo.

``python benchmarks/scaling.py`` trains the same few epochs in turn with one process of one thread, one process of
two threads, and two processes of one thread each; prints a table and writes JSON. A speed is that of the median
epoch, so that the start does not count.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from timing import write

from afa.results.outcomes import format_table

ROOT = Path(__file__).parents[1]

SIDES = {
    "1 process, 1 thread": (1, 1),
    "1 process, 2 threads": (1, 2),
    "2 processes, 1 thread each": (2, 1),
}
"""Name -> number of processes, threads of each process."""


def images_per_second(processes: int, threads: int, *, steps: int, image_size: int) -> float:
    """Training speed of one run."""
    with tempfile.TemporaryDirectory(prefix="afa_scaling_") as outpath:
        run = [
            str(ROOT / "main.py"),
            "hocon_config/demo/ast.hocon",
            f"outpath={outpath}",
            "exp_id=run",
            "gpu_id=cpu",
            "batch_size=40",
            f"image_size={image_size}",
            f"max_iter={steps}",
            f"test_every={steps}",
            "report=false",
        ]
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        subprocess.run(
            [sys.executable, *(torchrun if processes > 1 else []), *run],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return json.loads(Path(outpath, "run", "stage.json").read_text())["images_per_second"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/scaling.json"))
    arguments = parser.parse_args()
    speeds: dict[str, list[float]] = {name: [] for name in SIDES}
    for _ in range(arguments.repeats):
        for name, side in SIDES.items():  # in turn: the speed of a shared machine drifts
            speeds[name].append(images_per_second(*side, steps=arguments.steps, image_size=arguments.image_size))
    base = next(iter(SIDES))
    results = {
        name: {
            "images_per_second": statistics.median(own),
            "ratio": statistics.median(a / b for a, b in zip(own, speeds[base], strict=True)),
        }
        for name, own in speeds.items()
    }
    rows = [[name, f"{result['images_per_second']:.1f}", f"{result['ratio']:.2f}"] for name, result in results.items()]
    print(format_table(["AST, MobileNetV2", "images/s", f"times {base}"], rows))
    options = {"repeats": arguments.repeats, "steps": arguments.steps, "image_size": arguments.image_size}
    write(arguments.json, **options, results=results)


if __name__ == "__main__":
    main()
