"""Measure how costs grow with the number of images, and with the number of classes.

    python benchmarks/large_folders.py --images 1000 10000 100000 --classes 10 100 1000

The images are copies of a few small files. For each number of images, one process each: trains the head for two epochs
with an empty disk cache; starts such a run again and stops after its first step; evaluates; predicts. For each number
of classes: trains for one step, then writes the page of the run.
"""

import argparse
import contextlib
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from timing import write

from afa.results.outcomes import format_bytes, format_table

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "hocon_config/demo/l2.hocon"
TRAIN, TEST = 10, 10
"""Images per class of the sets with many classes."""


def make_data_set(root: Path, train: int, test: int, classes: int) -> None:
    """``train`` training images and ``test`` test images; ``root`` is the ``target_data_dir``."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for label in range(classes):
            pixels = io.BytesIO()  # an image must not be in two classes or splits
            Image.fromarray(generator.integers(0, 256, (40, 40, 3), np.uint8)).save(pixels, "jpeg")
            folder = root / "set" / split / f"class_{label:04}"
            folder.mkdir(parents=True)
            for index in range(count // classes):
                (folder / f"{index:06}.jpg").write_bytes(pixels.getvalue())


def train_and_time(words: list[str], *, stop_after_first_step: bool = False) -> dict[str, float]:
    """Train; seconds to the end of the first step, and images per second of each epoch without its first step."""
    from afa.config.hocon import load_settings
    from afa.entry import run
    from afa.training import loop

    times: list[tuple[int, int, float]] = []  # epoch, images, time
    after_step, started = loop.StepObserver.after_step, time.perf_counter()

    def observe(observer: loop.StepObserver, batch: loop.Batch, step: loop.Step) -> None:
        times.append((observer.state.epoch, len(batch.indices), time.perf_counter()))
        if stop_after_first_step:
            raise KeyboardInterrupt
        after_step(observer, batch, step)

    loop.StepObserver.after_step = observe  # type: ignore[method-assign]
    with contextlib.suppress(KeyboardInterrupt):
        run(load_settings(CONFIG, words))
    figures = {"first_step": times[0][-1] - started}
    for epoch in {epoch for epoch, *_ in times}:
        own = [(images, at) for number, images, at in times if number == epoch]
        if len(own) > 1:
            figures[f"epoch_{epoch}"] = sum(images for images, _ in own[1:]) / (own[-1][1] - own[0][1])
    return figures


def time_command(words: list[str]) -> dict[str, float]:
    """Run a command in this process; its seconds."""
    from afa.command_line import main as command

    started = time.perf_counter()
    if command(words):
        raise SystemExit(f"{words}: failed")
    return {"seconds": time.perf_counter() - started}


def write_page(words: list[str]) -> dict[str, float]:
    """Seconds of the parts of a page that depend on the number of classes, and of the complete page; its size."""
    from afa.report import plots
    from afa.report.confusion import read_predictions
    from afa.report.page import write_report

    run = Path(words[0])
    figures = {}

    def timed(name: str, work: Callable[[], object]) -> object:
        started = time.perf_counter()
        done = work()
        figures[name] = time.perf_counter() - started
        return done

    confusion = read_predictions(next(run.rglob("predictions.csv")))
    timed("per_class", confusion.per_class)
    timed("matrix", lambda: plots.to_svg(plots.confusion_matrix(confusion), "confusion matrix"))
    timed("page", lambda: write_report(run))
    return figures | {"bytes": (run / "report.html").stat().st_size}


PARTS: dict[str, Callable[[list[str]], dict[str, float]]] = {
    "train": train_and_time,
    "start": lambda words: train_and_time(words, stop_after_first_step=True),
    "command": time_command,
    "page": write_page,
}


def measure(part: str, words: list[str]) -> dict[str, float]:
    """Figures of a part, in a process of its own, with its peak memory in MiB."""
    command = [sys.executable, __file__, "measure", part, *words]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])


def by_images(count: int, cache: str, root: Path) -> list[str]:
    """A row of the first table."""
    make_data_set(root, count, count // 10, 10)
    common = [f"target_data_dir={root}", "target_dataset=set", "image_size=32", "batch_size=100", f"cache={cache}"]
    common += [f"cache_dir={root / 'cache'}", f"outpath={root}", "lr=0.001", "report=false", "quiet=true"]
    train = [*common, "reg_type=l2_fe", "epochs=2", "test_every=2"]
    first = measure("train", [*train, "exp_id=run"])
    second = measure("start", [*train, "exp_id=again"])
    kept = sum(path.stat().st_size for path in (root / "cache").glob("**/*") if path.is_file())
    # The training images are evaluated and classified.
    (root / "all").mkdir()
    (root / "all/test").symlink_to(root / "set/train")
    checkpoint = f"pre_trained_path={root / 'run'}"
    words = [*common, "target_dataset=all", "cache=none", "exp_id=eval", "mode=eval", checkpoint]
    evaluation = measure("command", [str(CONFIG), *words])
    prediction = measure(
        "command", ["mode=predict", checkpoint, f"input={root / 'set/train'}", f"output={root / 'out'}"]
    )
    figures = [f"{first['first_step']:.1f}", f"{second['first_step']:.1f}", f"{first['memory']:.0f}"]
    figures += [f"{first[epoch]:.0f}" for epoch in ("epoch_0", "epoch_1")] + [format_bytes(kept) if kept else "-"]
    for done in (evaluation, prediction):
        figures += [f"{count / done['seconds']:.0f}", f"{done['memory']:.0f}"]
    return [f"{count:,}", *figures]


def by_classes(count: int, root: Path) -> list[str]:
    """A row of the second table."""
    make_data_set(root, TRAIN * count, TEST * count, count)
    words = [f"target_data_dir={root}", "target_dataset=set", "image_size=32", "batch_size=100", f"outpath={root}"]
    words += ["reg_type=l2_fe", "max_iter=1", "exp_id=run", "report=false", "quiet=true"]
    measure("train", words)
    page = measure("page", [str(root / "run")])
    seconds = [f"{page[name]:.2f}" for name in ("per_class", "matrix", "page")]
    return [f"{count:,}", f"{TEST * count:,}", *seconds, f"{page['bytes'] / 1e3:.0f}", f"{page['memory']:.0f}"]


IMAGES_HEADER = ["images", "first step s", "second start s", "MiB", "images/s, epoch 1", "epoch 2", "disk cache"]
IMAGES_HEADER += ["eval images/s", "MiB", "predict images/s", "MiB"]
CLASSES_HEADER = ["classes", "test images", "scores s", "matrix s", "page s", "page kB", "MiB"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="*", default=[1000, 10_000, 100_000])
    parser.add_argument("--classes", type=int, nargs="*", default=[10, 100, 1000])
    parser.add_argument("--cache", default="disk", choices=["disk", "none", "memory"])
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/large_folders.json"))
    options = parser.parse_args()
    tables = {}
    for name, header, counts in (
        ("images", IMAGES_HEADER, options.images),
        ("classes", CLASSES_HEADER, options.classes),
    ):
        rows = []
        for count in counts:
            with tempfile.TemporaryDirectory(prefix="afa_large_") as root:
                is_images = name == "images"
                rows.append(by_images(count, options.cache, Path(root)) if is_images else by_classes(count, Path(root)))
            print(f"{name}: {rows[-1]}", file=sys.stderr, flush=True)
        tables[name] = {"header": header, "rows": rows}
        print(format_table(header, rows))
    write(options.json, **tables)


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        found = PARTS[sys.argv[2]](sys.argv[3:])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({**found, "memory": peak}))
    else:
        main()
