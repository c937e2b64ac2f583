"""The rows of ``gpu.py`` that measure speed."""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from images import make_images
from PIL import Image
from step import batch_of, build_limit, build_ours, build_textbook, learner_of, network_of
from timing import Cost, Work, against_textbook, cost, in_turn, median, ratio
from torch import Tensor

from afa.data.folders import ImageFolder, scan_split
from afa.data.images import load_canvases
from afa.data.loaders import TestLoader, TrainLoader
from afa.data.transforms import Preprocessing
from afa.networks.features import FeatureNetwork
from afa.training.engine import Learner, TrainSums, predict, train_one_epoch
from afa.training.numerics import FiniteCheck

Figures = dict[str, Any]
METHOD = "ast"


def with_mode(
    options: argparse.Namespace, precision: str = "fp32", compile_: bool = False, channels_last: bool = True
) -> argparse.Namespace:
    """The options with those of a learner."""
    mode = {"precision": precision, "compile": compile_, "channels_last": channels_last}
    return argparse.Namespace(**{**vars(options), **mode})


def peak_gib(device: torch.device, work: Callable[[], Any]) -> float:
    """Peak memory of the GPU during ``work``; 0 on a CPU."""
    if device.type == "cpu":
        work()
        return 0.0
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_allocated(device) / 2**30


def step(options: argparse.Namespace, backbone: str, precision: str, compile_: bool, channels_last: bool) -> Figures:
    """A training step: AFA, the limit and the textbook in turn."""
    options = with_mode(options, precision, compile_, channels_last)
    sides: dict[str, Work] = {}
    memory = {}
    for name, build in (("ours", build_ours), ("textbook", build_textbook), ("limit", build_limit)):
        before = torch.cuda.memory_allocated(options.device) / 2**30 if options.device.type == "cuda" else 0.0
        sides[name] = build(options, backbone, *([METHOD] if name != "limit" else []))
        memory[name] = peak_gib(options.device, sides[name]) - before
        sides[name]()

    def timed(work: Work) -> Callable[[], Cost]:
        return lambda: cost(work, options.device, options.rounds)

    costs = in_turn({name: timed(work) for name, work in sides.items()}, options.repeats)
    figures = against_textbook(costs, options.batch)
    of_limit = ratio(costs["ours"], costs["limit"]).wall
    return {
        **figures,
        "of_limit_wall": of_limit,
        "peak_gib": memory,
        "result": f"{figures['images_per_second']:.0f} images/s, "
        f"{figures['times_textbook_wall']:.2f} times the textbook ({figures['textbook_images_per_second']:.0f}), "
        f"{of_limit:.3f} of the limit, "
        f"peak {memory['ours']:.2f} GiB (textbook {memory['textbook']:.2f})",
    }


def random_images(count: int) -> ImageFolder:
    """Names of images that do not exist: their decoded pixels are given to a loader."""
    return ImageFolder(Path(), tuple(Path(str(index)) for index in range(count)), (0,) * count, ("a",))


def train_loader(options: argparse.Namespace, batches: int) -> TrainLoader:
    """Batches of decoded images in memory."""
    images, preprocessing = random_images(options.batch * batches), Preprocessing(options.size)
    canvas = preprocessing.train_canvas(Image.new("RGB", (500, 375)))
    canvases = np.random.default_rng(1).integers(0, 256, (len(images), *canvas.shape), np.uint8)
    common = {"batch_size": options.batch, "device": options.device, "num_workers": 0, "canvases": canvases}
    return TrainLoader(images, preprocessing, seed=1, **common)


def covered(intervals: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Length of the union of (start, end) intervals, and the time from the first start to the last end."""
    ordered = sorted(intervals)
    busy, reached = 0.0, ordered[0][0]
    for start, end in ordered:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return busy, reached - ordered[0][0]


def train(learner: Learner, loader: TrainLoader, epoch: int) -> None:
    """One epoch, with the checks of a run."""
    finite = FiniteCheck(learner.device)
    sums = TrainSums(len(learner.objective.attention_names), learner.device)
    train_one_epoch(
        learner, loader.epoch(epoch), sums, lambda batch, step: finite.check(step.scalars, lambda: f"epoch {epoch}")
    )
    finite.flush()


def waiting(options: argparse.Namespace, backbone: str) -> Figures:
    """Fraction of the time of an epoch without a kernel on the GPU, with decoded images in memory."""
    loader, shown = train_loader(options, batches=20), {}
    for name, precision, compile_ in (("fp32", "fp32", False), ("bf16, compiled", "bf16", True)):
        learner = learner_of(with_mode(options, precision, compile_), backbone, METHOD)
        train(learner, loader, epoch=0)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            train(learner, loader, epoch=1)
        kernels = [
            (event.time_range.start, event.time_range.end)
            for event in profile.events()
            if event.device_type == torch.autograd.DeviceType.CUDA
            # Neither copies nor torch's names of a range of kernels.
            and not event.name.startswith(("Mem", "Optimizer.", "ProfilerStep", "autograd::"))
        ]
        busy, total = covered(kernels)
        shown[name] = 1 - busy / total
    return {**shown, "result": "; ".join(f"{name}: {100 * value:.1f} %" for name, value in shown.items())}


def input_alone(options: argparse.Namespace) -> Figures:
    """Images per second of the training input: decoded by worker processes, and decoded images in memory."""
    sides: dict[str, Callable[[], Any]] = {}
    with tempfile.TemporaryDirectory(prefix="afa_images_") as path:
        make_images(Path(path), options.images)
        folder, preprocessing = scan_split(Path(path)), Preprocessing(options.size)
        canvases, _ = load_canvases(folder.paths, preprocessing.train_canvas, workers=16)
        common = {"batch_size": options.batch, "seed": 1, "device": options.device}
        for name, own, workers in (("cache=none, 16 workers", None, 16), ("cache=memory", canvases, 0)):
            loader = TrainLoader(folder, preprocessing, num_workers=workers, canvases=own, **common)
            sides[name] = lambda loader=loader: [None for _ in loader.epoch(0)]
        seconds = {name: cost(work, options.device).wall for name, work in sides.items()}
        seconds["cache=memory"] = statistics.median(cost(sides["cache=memory"], options.device).wall for _ in range(3))
    speeds = {name: options.images / wall for name, wall in seconds.items()}
    return {**speeds, "result": "; ".join(f"{name}: {speed:.0f} images/s" for name, speed in speeds.items())}


def evaluation(options: argparse.Namespace, backbone: str) -> Figures:
    """Images per second of ``predict`` with decoded images in memory, and of the network alone."""
    options = with_mode(options)
    network = FeatureNetwork(network_of(backbone, options.device), ()).evaluator()
    canvases = np.random.default_rng(1).integers(0, 256, (options.images, 1, options.size, options.size, 3), np.uint8)
    loader = TestLoader(
        random_images(options.images),
        Preprocessing(options.size),
        batch_size=4 * options.batch,
        device=options.device,
        num_workers=0,
        canvases=canvases,
    )
    batch, _ = batch_of(argparse.Namespace(**{**vars(options), "batch": 4 * options.batch}), torch.channels_last)

    @torch.inference_mode()
    def alone() -> Tensor:
        return network(batch)

    works: dict[str, Work] = {"predict": lambda: predict(network, loader), "network alone": alone}
    counts = {"predict": options.images, "network alone": 4 * options.batch}

    def timed(work: Work) -> Callable[[], Cost]:
        return lambda: cost(work, options.device)

    costs = in_turn({name: timed(work) for name, work in works.items()}, options.repeats)
    speeds = {name: counts[name] / median(own).wall for name, own in costs.items()}
    return {**speeds, "result": "; ".join(f"{name}: {value:.0f} images/s" for name, value in speeds.items())}
