"""Check AFA on a GPU and measure its speed, in about ten minutes: one Markdown table and one JSON file.

    ./run.sh gpu                                      # all rows, to runs/benchmarks/gpu.md and gpu.json
    python benchmarks/gpu.py --rows fp16 waiting      # rows whose names contain one of these words
    python benchmarks/gpu.py --device cpu --size 32   # tests the script itself; rows that need a GPU are not run

Each row runs in a process of its own, so that a failure does not affect the others, and the files are written after
each row. Rows that do not start within --minutes are not run. *Times*: speed as a multiple of the textbook (eager,
float32 without TF32). *Limit*: time divided by that of the two networks alone on tensors that are already on the
GPU, in the same precision. All sides are timed in turn.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import gpu_checks as checks
import gpu_speed as speed

from afa.machine.device import describe_environment

Figures = dict[str, Any]


class Row(NamedTuple):
    """One row of the table. ``work(options, *arguments)`` returns figures, of which ``result`` is shown."""

    name: str
    work: Callable[..., Figures]
    arguments: tuple[Any, ...] = ()
    gpus: int = 1


MODES: tuple[tuple[str, str, bool, bool], ...] = (
    ("bf16, compiled", "bf16", True, True),
    ("tf32", "tf32", False, True),
    ("fp32", "fp32", False, True),
    ("fp16", "fp16", False, True),
    ("bf16, compiled, channels_last off", "bf16", True, False),
    ("fp32, channels_last off", "fp32", False, False),
)
"""Name, precision, whether compiled, channels_last."""
NETWORKS = ("mobilenet_v2", "resnet101")


def steps_of(network: str) -> list[Row]:
    """The rows of the training steps of a network; float32 also runs on a CPU."""
    return [
        Row(f"{network}: step, {name}", speed.step, (network, *mode), gpus=int(mode[0] != "fp32"))
        for name, *mode in MODES
    ]


ROWS = (
    Row("fp16: steps that overflow change nothing", checks.steps_in_fp16),
    Row("first losses as on the CPU", checks.first_losses, gpus=0),
    Row("no step waits for the GPU", checks.no_step_waits),
    Row("one step of swin_v2_t", checks.step_of_swin, gpus=0),
    Row("DELTA's weights as on the CPU", checks.delta_weights, gpus=0),
    Row("predictions as on the CPU", checks.predictions, gpus=0),
    Row("checkpoint read without a GPU", checks.checkpoint_without_gpu, gpus=0),
    Row("gpu_id=1: nothing on GPU 0, NaN reported", checks.second_gpu, gpus=2),
    *steps_of(NETWORKS[0]),
    Row(f"{NETWORKS[0]}: fraction of the time that the GPU waits", speed.waiting, (NETWORKS[0],)),
    Row("compile=true: first step of three epochs", checks.compiled_epochs),
    Row("GPU memory exhausted: one line, checkpoint complete", checks.out_of_memory),
    Row("GPU memory of both stages, and of the dry run", checks.memory_of_stages, gpus=0),
    Row("killed and resumed, fp32", checks.killed_and_resumed, ("fp32",), gpus=0),
    Row("killed and resumed, fp16", checks.killed_and_resumed, ("fp16",)),
    Row("two processes: workers, SIGTERM, sync_bn, one that fails", checks.two_processes, gpus=2),
    Row("input alone", speed.input_alone, gpus=0),
    Row(f"{NETWORKS[0]}: evaluation", speed.evaluation, (NETWORKS[0],), gpus=0),
    *steps_of(NETWORKS[1]),
    Row(f"{NETWORKS[1]}: evaluation", speed.evaluation, (NETWORKS[1],), gpus=0),
    Row(f"{NETWORKS[1]}: fraction of the time that the GPU waits", speed.waiting, (NETWORKS[1],)),
)


def call(connection: Connection, row: Row, options: argparse.Namespace) -> None:
    """In the process of a row, which has a session of its own with the processes that it starts: send its figures."""
    os.setsid()
    try:
        figures = row.work(options, *row.arguments)
    except ModuleNotFoundError as error:
        figures = {"result": f"not run: the package {error.name} is not installed"}
    except Exception as error:
        text = " ".join(str(error).split())[-500:]
        figures = {"result": f"FAILED: {type(error).__name__}: {text}", "failed": True}
    connection.send(figures)


def run_row(row: Row, options: argparse.Namespace, seconds: float) -> Figures:
    """Run a row in a process of its own, for at most ``seconds``."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=call, args=(there, row, options))
    process.start()
    there.close()
    started = time.monotonic()
    try:
        figures = here.recv() if here.poll(seconds) else {"result": f"stopped after {seconds:.0f} s"}
    except EOFError:
        process.join()
        figures = {"result": f"FAILED: the process ended with status {process.exitcode}", "failed": True}
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # also the runs that it has started
        process.kill()
        process.join()
    return {**figures, "seconds": time.monotonic() - started}


def describe_gpus() -> tuple[int, str]:
    """Number of GPUs; their names, memory and driver."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        return 0, "no GPU"
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return count, ", ".join(torch.cuda.get_device_name(index) for index in range(count))
    return count, "; ".join(found.strip().splitlines())


def table(title: str, results: dict[str, Figures]) -> str:
    """The Markdown table."""
    rows = [f"| {name} | {figures['result']} | {figures.get('seconds', 0):.0f} |" for name, figures in results.items()]
    return "\n".join([title, "", "| row | result | seconds |", "|---|---|---|", *rows, ""])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--rows", nargs="+", default=[""], help="words of the names of the rows to run")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=224, help="side of an image in pixels")
    parser.add_argument("--repeats", type=int, default=10, help="of each side, in turn")
    parser.add_argument("--rounds", type=int, default=10, help="steps of a repeat")
    parser.add_argument("--images", type=int, default=2000, help="of predictions, evaluation and input")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    count, gpus = describe_gpus() if options.device == "cuda" else (0, "on the CPU: no row shows anything about a GPU")
    if options.device == "cuda" and not count:
        raise SystemExit("no GPU that torch can use; --device cpu tests the script itself")
    options.device = torch.device(options.device)
    title = f"{gpus}; torch {torch.__version__}; batch {options.batch}, {options.size} pixels"
    print(title, flush=True)
    settings = {name: value for name, value in vars(options).items() if name not in ("device", "out")}
    content: Figures = {
        "gpus": gpus,
        "environment": describe_environment(options.device, " ".join(sys.argv)),
        "options": settings,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    started, results = time.monotonic(), dict[str, Figures]()
    for row in ROWS:
        if not any(words in row.name for words in options.rows):
            continue
        left = 60 * options.minutes - (time.monotonic() - started)
        if row.gpus > count:
            results[row.name] = {"result": f"not run: {count or 'no'} GPU"}
        elif left < 0:
            results[row.name] = {"result": f"not run: {options.minutes:g} minutes are over"}
        else:
            results[row.name] = run_row(row, options, left + 60)
        print(f"{row.name}: {results[row.name]['result']}", flush=True)
        (options.out / "gpu.md").write_text(table(title, results))
        (options.out / "gpu.json").write_text(json.dumps({**content, "rows": results}, indent=1) + "\n")
    print(f"written to {options.out / 'gpu.md'} and gpu.json")
    if failed := [name for name, figures in results.items() if figures.get("failed")]:
        raise SystemExit(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
