"""Several processes: mean gradients, each test image once, one writer; signals, kills, errors printed once."""

import csv
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torchvision.models import resnet18

from afa.config.settings import BackboneSettings, StageSettings
from afa.data.folders import scan_split
from afa.data.loaders import Batch, TrainLoader
from afa.data.transforms import Preprocessing
from afa.errors import ConfigError
from afa.machine.launch import Launch, read_launch
from afa.machine.signals import StoppedError
from afa.training import parallel
from afa.training.engine import Learner, train_step
from afa.training.learner import Start, build_learner
from afa.training.parallel import communication_error, join_processes
from tests.processes import CONTEXT
from tests.ranks import Ranks, environment, free_port
from tests.same import assert_the_same

CPU = torch.device("cpu")
BACKBONE = BackboneSettings(name="resnet18", aligned_layers=("layer2.1.conv2", "layer4.1.conv2"))
METHODS = {
    "ast": StageSettings(method="ast", alpha=1e-3),
    "delta": StageSettings(method="delta", alpha=1e-3),
    "relative delta": StageSettings(method="delta", alpha=1.0, alignment_scale="relative"),
    "l2_sp": StageSettings(method="l2_sp", alpha=0.01),
}
RATE = 0.01
ROOT = Path(__file__).parents[1]
TINY = str(ROOT / "tests" / "tiny.hocon")


def build(method: str) -> Learner:
    """A learner in double precision, with the same weights in every process."""
    torch.manual_seed(0)
    state = resnet18().state_dict()
    start = Start({name: value for name, value in state.items() if not name.startswith("fc.")}, "test", with_head=False)
    return build_learner(
        BACKBONE,
        replace(METHODS[method], learning_rate=RATE),
        start=start,
        num_classes=3,
        image_size=64,
        seed=1,
        device=CPU,
        fixed_weights=[torch.full((128,), 1 / 128), torch.full((512,), 1 / 512)] if "delta" in method else (),
    )


def first_batch(images: Path, rank: int, size: int) -> Batch:
    """The images of ``rank`` of a batch of 5: with two processes 3 and 3, the last of which is a copy."""
    loader = TrainLoader(
        scan_split(images),
        Preprocessing(64),
        batch_size=5,
        seed=1,
        device=CPU,
        num_workers=0,
        rank=rank,
        world_size=size,
    )
    return next(loader.epoch(0))


def take_a_step(rank: int, size: int, port: int, images: Path, out: Path) -> None:
    """Train one of ``size`` processes for one step of every method, and save what it has to a file in ``out``."""
    os.environ.update(environment(rank, size, port))
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    processes = join_processes(read_launch(), CPU, sync_bn=False)
    seen: dict[str, Any] = {}
    for method in METHODS:
        learner = processes.wrap(build(method))
        learner.target.train()
        batch = first_batch(images, rank, size)
        step = train_step(learner, batch.images.double(), batch.labels)
        trained = [p for group in learner.optimizer.param_groups for p in group["params"]]
        seen[method] = {"trained": trained, "norm": step.gradient_norm}
    torch.save(seen, out / f"{rank}.pth")


@pytest.fixture(scope="module")
def eleven(tmp_path_factory, data_dir) -> Path:
    """A folder of 11 images in three classes."""
    folder = shutil.copytree(data_dir / "tiny" / "train", tmp_path_factory.mktemp("eleven") / "train")
    next((folder / "bag").iterdir()).unlink()
    return folder


def test_the_gradient_is_the_mean_over_the_processes(eleven, tmp_path):
    """Of a mean over the batch (AST, the relative DELTA), a sum over it (DELTA), and a loss of the weights (L2-SP)."""
    port = free_port()
    processes = [CONTEXT.Process(target=take_a_step, args=(rank, 2, port, eleven, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
    assert [process.exitcode for process in processes] == [0, 0]
    one, two = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
    torch.set_default_dtype(torch.float64)
    try:
        for method in METHODS:
            gradients = []
            for rank in range(2):
                learner, batch = build(method), first_batch(eleven, rank, 2)
                learner.objective.summed_factor = 2.0
                trained = [p for group in learner.optimizer.param_groups for p in group["params"]]
                start = [p.detach().clone() for p in trained]
                learner.target.train()
                train_step(learner, batch.images.double(), batch.labels)
                gradients.append([torch.zeros_like(p) if p.grad is None else p.grad for p in trained])
            means = [(first + second) / 2 for first, second in zip(*gradients, strict=True)]
            norm = torch.stack([mean.norm() for mean in means]).norm()
            for ours in (one[method], two[method]):
                torch.testing.assert_close(ours["norm"], norm, rtol=1e-9, atol=0)
                for parameter, before, mean in zip(ours["trained"], start, means, strict=True):
                    torch.testing.assert_close(parameter.data, before - RATE * mean, rtol=1e-9, atol=1e-12)
    finally:
        torch.set_default_dtype(torch.float32)


NCCL = """NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:94, unhandled system error
ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error.
Last error:
Error while creating shared memory segment /dev/shm/nccl-Yp2fGg, error: No space left on device (28)
"""
GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:544] Connection closed by peer [127.0.0.1]:47217"


def test_the_cause_of_a_failed_communication_is_shown():
    shown = "the processes of this run cannot communicate: {}; the same command resumes"
    assert communication_error(dist.DistBackendError(NCCL)) == shown.format(NCCL.splitlines()[-1])
    timeout = "Watchdog caught collective operation timeout"
    assert communication_error(dist.DistError(timeout)) == shown.format(timeout)
    assert "killed?" in communication_error(RuntimeError(GLOO))
    assert communication_error(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) == ""
    assert communication_error(OSError("connection")) == ""


@pytest.mark.parametrize(
    ("error", "status"), [(ConfigError("few"), 2), (torch.OutOfMemoryError("16 GiB"), 1), (StoppedError(15), 143)]
)
def test_after_an_error_a_program_does_not_shut_nccl_down(monkeypatch, error, status):
    """NCCL may wait for processes that do not come."""
    at_exit = [parallel._leave]
    monkeypatch.setattr("atexit.unregister", at_exit.remove)
    monkeypatch.setattr("atexit.register", lambda *call: at_exit.append(call))
    monkeypatch.setattr("afa.machine.signals.Program.is_running", True)
    processes = parallel.DistributedProcesses(Launch(), dist.HashStore())
    with pytest.raises(type(error)), processes.report_errors_once():
        raise error
    assert at_exit == [(parallel._exit, status)]


@pytest.mark.slow
def test_after_an_error_no_process_waits_for_the_others(data_dir, tmp_path):
    script = """
import sys, time
import torch.distributed
from afa.command_line import main
from afa.machine.signals import end_on_signals
torch.distributed.destroy_process_group = lambda: time.sleep(600)
end_on_signals()
sys.exit(main(sys.argv[1:]))
"""
    port, processes = free_port(), []
    for rank in range(2):
        command = [sys.executable, "-c", script, *words_of(data_dir, tmp_path), "batch_size=1"]
        variables = {**os.environ, **environment(rank, 2, port)}
        processes.append(subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True, cwd=ROOT))
    try:
        errors = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [2, 2]
    assert "".join(errors).count("2 processes, but batch_size: 1") == 1


def test_sync_bn_needs_gpus():
    launch = Launch(rank=0, size=2)
    with pytest.raises(ConfigError, match="sync_bn: torch supports it for CUDA GPUs only"):
        join_processes(launch, CPU, sync_bn=True)


def run_in_two(data_dir: Path, out: Path, *extra: str) -> Ranks:
    """A run of two epochs of three steps: batches of 5, 5 and 2 images, 9 test images."""
    return Ranks([*words_of(data_dir, out), *extra], out)


def words_of(data_dir: Path, out: Path) -> list[str]:
    """The command line of such a run."""
    return [
        TINY,
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


@pytest.fixture
def tiny_run(data_dir) -> Callable[..., Ranks]:
    """``tiny_run(out, ...)``: such a run at work."""
    return functools.partial(run_in_two, data_dir)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data_dir) -> Path:
    """A run of two processes without any disturbance."""
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
    assert "".join(program.output for program in ranks.programs).count("already finished") == 1


def test_stopped_by_sigterm_all_leave_at_the_same_step_and_go_on_exactly(undisturbed, tiny_run, tmp_path):
    ranks = tiny_run(tmp_path)
    ranks.programs[0].wait_for_line(tmp_path / "run/experiment.log", "AST epoch 1/2 step 1/")
    ranks.programs[1].send(signal.SIGTERM)  # to one alone: it informs the others
    assert ranks.wait() == [143, 143]
    assert ranks.errors == "stopped by SIGTERM; run the same command again to resume\n"
    again = tiny_run(tmp_path)
    assert again.wait() == [0, 0], again.errors
    assert_the_same(tmp_path / "run", undisturbed)


def test_one_that_is_killed_ends_the_others_in_a_line_and_the_run_goes_on_exactly(undisturbed, tiny_run, tmp_path):
    ranks = tiny_run(tmp_path)
    ranks.programs[0].wait_for_line(tmp_path / "run/experiment.log", "AST epoch 1/2 step 1/")
    ranks.programs[1].send(signal.SIGKILL)
    assert ranks.wait() == [1, -signal.SIGKILL]
    assert (
        ranks.errors
        == "another process of this run ended without an error message (killed?); the same command resumes\n"
    )
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
def test_an_error_is_printed_once(tiny_run, tmp_path, extra, status, line):
    ranks = tiny_run(tmp_path, *extra)
    assert ranks.wait() == [status, status]
    assert line in ranks.errors
    assert ranks.errors.count("\n") == 1
