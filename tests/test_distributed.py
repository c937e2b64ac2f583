"""Several processes: the losses, weights and files of one; each image once; signals, kills and errors said once."""

import csv
import functools
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import resnet18

from afa.config.launch import read_launch
from afa.config.settings import BackboneSettings, StageSettings
from afa.data import loaders
from afa.data.folders import scan_split
from afa.data.loaders import TrainLoader
from afa.data.transforms import Preprocessing
from afa.training.distributed import join
from afa.training.engine import train_step
from afa.training.setup import Start, build_learner
from tests.processes import CONTEXT
from tests.ranks import Ranks, environment, free_port
from tests.same import assert_the_same

CPU = torch.device("cpu")
BACKBONE = BackboneSettings(name="resnet18", aligned_layers=("layer2.1.conv2", "layer4.1.conv2"))
METHODS = {"ast": 1e-3, "delta": 1e-3, "l2_sp": 0.01}
"""Method -> alpha: a mean over the batch, a sum over it, and one of the weights alone."""
ROOT = Path(__file__).parents[1]
TINY = str(ROOT / "tests" / "tiny.hocon")


def take_steps(rank: int, size: int, port: int, images: Path, sync_bn: bool, out: Path) -> None:
    """What one of ``size`` processes sees in an epoch of every method, in double precision, into a file in ``out``."""
    os.environ.update(environment(rank, size, port))
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    state = resnet18().state_dict()
    start = Start({name: value for name, value in state.items() if not name.startswith("fc.")}, "test", with_head=False)
    world = join(read_launch(), CPU, sync_bn=sync_bn)
    seen: dict[str, Any] = {}
    for method, alpha in METHODS.items():
        learner = build_learner(
            BACKBONE,
            StageSettings(method=method, alpha=alpha),
            start=start,
            num_classes=3,
            image_size=64,
            seed=1,
            device=CPU,
            fixed_weights=[torch.full((128,), 1 / 128), torch.full((512,), 1 / 512)] if method == "delta" else (),
            sync_bn=sync_bn and size > 1,
        )
        learner = replace(
            learner, world=world, shared=world.forward_of(learner.target, learner.objective, learner.precision)
        )
        learner.target.train()
        # 11 images in batches of 5; the last two batches, over two processes: 3 and 2, 1 and none.
        loader = TrainLoader(
            scan_split(images), Preprocessing(64), batch_size=5, seed=1, device=CPU, num_workers=0, part=world.part
        )
        steps = [
            train_step(learner, batch.images.double(), batch.labels, batch.share) for batch in loader.epoch(0, start=1)
        ]
        seen[method] = {
            "figures": [
                [*map(float, step.losses[:4]), float(step.gradient_norm), float(step.correct)] for step in steps
            ],
            "entropies": [step.losses.entropies for step in steps],
            "model": learner.target.network.state_dict(),
            "attention": learner.objective.state_dict(),
        }
    torch.save(seen, out / f"{size}_{rank}.pth")


@pytest.fixture(scope="module")
def eleven(tmp_path_factory, data_dir) -> Path:
    """A folder of 11 images in three classes."""
    folder = shutil.copytree(data_dir / "tiny" / "train", tmp_path_factory.mktemp("eleven") / "train")
    next((folder / "bag").iterdir()).unlink()
    return folder


def in_processes(size: int, images: Path, sync_bn: bool, out: Path) -> list[dict[str, Any]]:
    port = free_port()
    processes = [
        CONTEXT.Process(target=take_steps, args=(rank, size, port, images, sync_bn, out)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
    assert [process.exitcode for process in processes] == [0] * size
    return [torch.load(out / f"{size}_{rank}.pth") for rank in range(size)]


def test_two_processes_with_sync_bn_are_one(eleven, tmp_path):
    (one,) = in_processes(1, eleven, True, tmp_path)
    for ours in in_processes(2, eleven, True, tmp_path):
        for method in METHODS:
            torch.testing.assert_close(ours[method], one[method], rtol=1e-9, atol=1e-9)


def test_each_image_comes_once_to_one_of_the_processes(eleven):
    folder = scan_split(eleven)
    common = {"batch_size": 5, "device": CPU, "num_workers": 0}
    whole = list(TrainLoader(folder, Preprocessing(32), seed=1, **common).epoch(2, start=1))
    for size in (2, 3, 4):
        parts = [
            list(TrainLoader(folder, Preprocessing(32), seed=1, part=(rank, size), **common).epoch(2, start=1))
            for rank in range(size)
        ]
        for batch, *own in zip(whole, *parts, strict=True):
            here = [part for part in own if part.share]
            assert torch.equal(torch.cat([part.images for part in here]), batch.images)
            assert torch.equal(torch.cat([part.labels for part in here]), batch.labels)
            assert sum(part.share for part in own) == pytest.approx(1)
            assert all(torch.equal(part.indices, batch.indices) and len(part.images) for part in own)
        tests = [loaders.TestLoader(folder, Preprocessing(32), part=(rank, size), **common) for rank in range(size)]
        assert [i for loader in tests for batch in loader for i in batch.indices.tolist()] == list(range(11))


def run_in_two(data_dir: Path, out: Path, *extra: str) -> Ranks:
    """A run of two epochs of three steps: batches of 5, 5 and 2 images, 9 test images."""
    words = [
        f"target_data_dir={data_dir}",
        "target_dataset=tiny",
        f"outpath={out}",
        f"source_weights={ROOT / 'demo' / 'mobilenet_v2_source_fp16.pth'}",
        "image_size=64",
        "batch_size=5",
        "max_iter=5",
        "alpha=1e-5",
        "lr=0.001",
        "print_freq=1",
        "exp_id=run",
        "gpu_id=cpu",
        "num_workers=0",
        "report=false",
    ]
    return Ranks([TINY, *words, *extra], out)


@pytest.fixture
def tiny_run(data_dir) -> Callable[..., Ranks]:
    """``tiny_run(out, ...)``: such a run at work."""
    return functools.partial(run_in_two, data_dir)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data_dir) -> Path:
    """A run of two processes that nothing happened to."""
    out = tmp_path_factory.mktemp("undisturbed")
    ranks = run_in_two(data_dir, out)
    assert ranks.wait() == [0, 0], ranks.errors
    return out / "run"


def test_a_run_is_written_once_and_counts_each_test_image_once(undisturbed, tiny_run):
    with (undisturbed / "predictions.csv").open() as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    assert len(paths) == len(set(paths)) == 9
    result = json.loads((undisturbed / "result.json").read_text())
    assert result["data"]["test"]["images"] == 9
    assert len((undisturbed / "log.txt").read_text().splitlines()) == 3
    lines = (undisturbed / "experiment.log").read_text()
    assert lines.count("AST epoch 1/2 step 3/3") == 1
    assert "in 2 processes" in lines
    ranks = tiny_run(undisturbed.parent)
    assert ranks.wait() == [0, 0]
    assert "".join(program.output for program in ranks.programs).count("finished already") == 1


def test_stopped_by_sigterm_all_leave_at_the_same_step_and_go_on_exactly(undisturbed, tiny_run, tmp_path):
    ranks = tiny_run(tmp_path)
    ranks.programs[0].wait_for_line(tmp_path / "run/experiment.log", "AST epoch 1/2 step 1/")
    ranks.programs[1].send(signal.SIGTERM)  # to one alone: the others hear of it
    assert ranks.wait() == [143, 143]
    assert ranks.errors == "stopped by SIGTERM; the same command again goes on from here\n"
    again = tiny_run(tmp_path)
    assert again.wait() == [0, 0], again.errors
    assert_the_same(tmp_path / "run", undisturbed)


def test_one_that_is_killed_ends_the_others_in_a_line_and_the_run_goes_on_exactly(undisturbed, tiny_run, tmp_path):
    ranks = tiny_run(tmp_path)
    ranks.programs[0].wait_for_line(tmp_path / "run/experiment.log", "AST epoch 1/2 step 1/")
    ranks.programs[1].send(signal.SIGKILL)
    assert ranks.wait() == [1, -signal.SIGKILL]
    assert ranks.errors == "another process of this run ended without a word (killed?); the same command goes on\n"
    again = tiny_run(tmp_path)
    assert again.wait() == [0, 0], again.errors
    assert_the_same(tmp_path / "run", undisturbed)


@pytest.mark.parametrize(
    ("extra", "status", "line"),
    [
        (["batch_size=1"], 2, "2 processes, but batch_size: 1: each process needs one; start fewer"),
        (["alfa=1"], 2, "alfa"),
        (["target_dataset=none"], 2, "target_dataset: no folder none in"),
        (["reg_type=delta"], 2, "start it without torchrun"),
        (["dry_run=true"], 2, "start it without torchrun"),
    ],
    ids=["too_few", "config", "data", "weights", "dry_run"],
)
def test_an_error_is_said_once(tiny_run, tmp_path, extra, status, line):
    ranks = tiny_run(tmp_path, *extra)
    assert ranks.wait() == [status, status]
    assert line in ranks.errors
    assert ranks.errors.count("\n") == 1
