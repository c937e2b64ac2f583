"""The rows of ``gpu.py`` that check: each returns figures or raises AssertionError with what is wrong."""

import argparse
import contextlib
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from gpu_speed import METHOD, peak_gib, with_mode
from step import CLASSES, batch_of, learner_of
from timing import CPU
from torch import nn

from afa.config.settings import BackboneSettings, StageSettings
from afa.data.folders import scan_split
from afa.errors import NotFiniteError
from afa.method.alignment import delta_channel_weights
from afa.networks.ablation import ChannelAblation
from afa.networks.build import build_network
from afa.networks.weights import load_file_safely
from afa.training.engine import train_step
from afa.training.learner import Learner, Start, build_learner
from afa.training.numerics import FiniteCheck, products_in_tf32

Figures = dict[str, Any]
ROOT = Path(__file__).parents[1]
NETWORK = "mobilenet_v2"
DEMO = ROOT / "demo" / "fashion_mnist_20shot"
SOURCE = ROOT / "demo" / "mobilenet_v2_source_fp16.pth"
RUN = ("hocon_config/demo/afa.hocon", "exp_id=run", "report=false", "num_workers=4", "print_freq=1", "test_every=2")


def batch(options: argparse.Namespace, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return batch_of(argparse.Namespace(batch=options.batch, size=options.size, device=device), torch.channels_last)


def tensors_of(learner: Learner) -> list[torch.Tensor]:
    return [parameter for group in learner.optimizer.param_groups for parameter in group["params"]]


def steps_in_fp16(options: argparse.Namespace) -> Figures:
    """A step whose gradient overflows changes no weight, and all weights stay finite: 30 steps, if --rounds is 10."""
    learner, skipped, steps = learner_of(with_mode(options, "fp16"), NETWORK, METHOD), 0, 3 * options.rounds
    # With this scale the first steps overflow for certain.
    learner.scaler.load_state_dict({**learner.scaler.state_dict(), "scale": 2.0**24, "backoff_factor": 1 / 16})
    images, labels = batch(options, options.device)
    for number in range(steps):
        before = [tensor.clone() for tensor in tensors_of(learner)]
        step = train_step(learner, images, labels)
        if not step.gradient_norm:
            skipped += 1
            assert all(map(torch.equal, tensors_of(learner), before)), f"the skipped step {number} changed a weight"
        assert all(tensor.isfinite().all() for tensor in tensors_of(learner)), f"step {number}: not finite"
    assert 0 < skipped < steps, f"{skipped} of {steps} steps skipped"
    return {"skipped": skipped, "result": f"{skipped} skipped, weights finite"}


def first_losses(options: argparse.Namespace) -> Figures:
    """The losses of the first step in fp32, on the GPU and on the CPU; without dropout, which draws differently."""
    losses = []
    for device in (CPU, options.device):
        learner = learner_of(with_mode(argparse.Namespace(**{**vars(options), "device": device})), NETWORK, METHOD)
        learner.target.network.classifier[0].p = 0.0
        losses.append([loss.item() for loss in train_step(learner, *batch(options, device)).losses[:4]])
    difference = max(abs(own / reference - 1) for own, reference in zip(losses[1], losses[0], strict=True))
    assert difference < 1e-3, f"{losses[1]} instead of {losses[0]}"
    return {"losses": losses, "result": f"largest relative difference {difference:.1e}"}


def no_step_waits(options: argparse.Namespace) -> Figures:
    """Steps raise an error if they wait for the GPU."""
    images, labels = batch(options, options.device)
    for precision in ("fp32", "bf16", "fp16"):
        learner = learner_of(with_mode(options, precision), NETWORK, METHOD)
        for _ in range(3):  # at first cuDNN chooses its kernels
            train_step(learner, images, labels)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(3):
                train_step(learner, images, labels)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return {"result": "fp32, bf16, fp16: no step waits"}


def step_of_swin(options: argparse.Namespace) -> Figures:
    """A network whose graph reads buffers itself."""
    learner = build_learner(
        BackboneSettings("swin_v2_t"),
        StageSettings("lwf", alpha=1.0),
        start=Start(build_network("swin_v2_t", CLASSES).state_dict(), "benchmark", with_head=True),
        num_classes=CLASSES,
        image_size=options.size,
        seed=1,
        device=options.device,
    )
    learner.target.train()
    total = train_step(learner, *batch(options, options.device)).losses.total.item()
    return {"total": total, "result": f"total loss {total:.3f}"}


def trained_network(device: torch.device) -> nn.Module:
    """The source network of the demo."""
    state = {name: value.float() for name, value in load_file_safely(SOURCE).items()}
    network = build_network(NETWORK, len(state["classifier.1.bias"]))
    network.load_state_dict(state)
    return network.to(device).eval()


@products_in_tf32(False)
def delta_weights(options: argparse.Namespace) -> Figures:
    """DELTA's weights of the channels of a layer, on the GPU and on the CPU."""
    weights = []
    for device in (CPU, options.device):
        network = trained_network(device)
        images, labels = batch(options, device)
        increases = ChannelAblation(network, "features.13.conv.2").increases(images, labels % 10)
        weights.append(delta_channel_weights(torch.cat([chunk.cpu() for chunk in increases])))
    difference = (weights[1] / weights[0] - 1).abs().max().item()
    assert difference < 1e-3, f"relative difference {difference:.1e}"
    return {"result": f"{len(weights[0])} channels, largest relative difference {difference:.1e}"}


def predictions(options: argparse.Namespace) -> Figures:
    """Logits of the demo's images on the GPU and on the CPU; speed and memory of many predictions."""
    from afa.inference.classifier import load_classifier

    files = list(scan_split(DEMO / "test").paths)
    logits = []
    for gpu_id in ("cpu", "cpu" if on_cpu(options) else "0"):
        classifier = load_classifier(SOURCE, gpu_id=gpu_id, base_model_name=NETWORK)
        logits.append(torch.cat([found.logits for found in classifier.logits(files[: options.batch])]))
    many = [files[index % len(files)] for index in range(options.images)]
    started = time.perf_counter()
    peak = peak_gib(options.device, lambda: list(classifier.logits(many)))
    speed = options.images / (time.perf_counter() - started)
    difference = (logits[1] - logits[0]).abs().max().item()
    assert torch.equal(logits[0].argmax(1), logits[1].argmax(1)), "other classes"
    assert difference < 1e-4 * max(1.0, logits[0].abs().max().item()), f"difference {difference:.1e}"
    return {"result": f"same classes, logits differ by {difference:.1e}; {speed:.0f} images/s, peak {peak:.2f} GiB"}


def checkpoint_without_gpu(options: argparse.Namespace) -> Figures:
    """A state that was saved on the GPU is read by a process that has none."""
    learner = learner_of(with_mode(options), NETWORK, METHOD)
    train_step(learner, *batch(options, options.device))
    with tempfile.TemporaryDirectory(prefix="afa_gpu_") as folder:
        path = Path(folder, "last.pth")
        torch.save({"model": learner.target.network.state_dict(), "optimizer": learner.optimizer.state_dict()}, path)
        script = "import sys; from pathlib import Path; from afa.networks.weights import load_file_safely as load; "
        script += "print({tensor.device.type for tensor in load(Path(sys.argv[1]))['model'].values()})"
        variables = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-c", script, str(path)]
        done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "{'cpu'}", done.stdout + done.stderr
    return {"result": "read"}


def arguments_of(options: argparse.Namespace, out: str, *more: str) -> list[str]:
    """Arguments of a run of AFA on the demo's images: two stages of four epochs."""
    size = ["batch_size=40", f"image_size={options.size}", "epochs=4", "alpha=1e-5"]
    gpu = [] if any(word.startswith("gpu_id") for word in more) else [f"gpu_id={'cpu' if on_cpu(options) else 0}"]
    return [*RUN, f"outpath={out}", *size, *gpu, *more]


def on_cpu(options: argparse.Namespace) -> bool:
    return options.device.type == "cpu"


def start(
    options: argparse.Namespace, out: str, *more: str, processes: int = 1, script: str = "main.py"
) -> subprocess.Popen:
    """Such a run, started in one process or by torchrun."""
    importlib.import_module("pyhocon")  # without it, the row is not run
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [*(torchrun if processes > 1 else []), script, *arguments_of(options, out, *more)]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(run: subprocess.Popen, expected: Sequence[int] = (0,), seconds: float = 300) -> str:
    """Wait for a run and return its output."""
    try:
        output = run.communicate(timeout=seconds)[0]
    finally:
        run.kill()
    assert run.returncode in expected, f"status {run.returncode}: {output}"
    return output


def wait_for(run: subprocess.Popen, log: Path, words: str) -> None:
    """Until ``words`` are in the log of a run."""
    until = time.monotonic() + 120
    while not (log.exists() and words in log.read_text()):
        assert run.poll() is None, f"ended early: {run.communicate()[0]}"
        assert time.monotonic() < until, f"{words} is not in the log after two minutes"
        time.sleep(0.02)


def interrupt_and_resume(options: argparse.Namespace, number: int, *more: str, processes: int = 1) -> None:
    """Send a signal in the second epoch; the same command resumes the run."""
    with tempfile.TemporaryDirectory(prefix="afa_gpu_") as out:
        run = start(options, out, *more, processes=processes)
        wait_for(run, Path(out, "run/experiment.log"), "AST epoch 2/4 step 1/")
        run.send_signal(number)
        finish(run, expected=[-number, 128 + number, 1])
        output = finish(start(options, out, *more, processes=processes))
        assert "resuming after epoch" in output, output
        assert Path(out, "run/result.json").exists(), output


def killed_and_resumed(options: argparse.Namespace, precision: str) -> Figures:
    """SIGKILL in the second epoch."""
    interrupt_and_resume(options, signal.SIGKILL, f"precision={precision}")
    return {"result": "resumed"}


def out_of_memory(options: argparse.Namespace) -> Figures:
    """With half a GiB of GPU memory the first step fails: one line, and the checkpoint of the start is complete."""
    from afa.command_line import main
    from afa.training.checkpoint import load_checkpoint

    total = torch.cuda.get_device_properties(options.device).total_memory
    torch.cuda.set_per_process_memory_fraction(2**29 / total, 0)
    errors = io.StringIO()
    with tempfile.TemporaryDirectory(prefix="afa_gpu_") as out:
        with contextlib.redirect_stderr(errors):
            status = main(arguments_of(options, out, "image_size=448"))
        lines = errors.getvalue().strip().splitlines()
        assert status == 1, f"status {status}"
        assert lines[-1].startswith("the GPU has not enough memory"), errors.getvalue()
        checkpoint = load_checkpoint(next(Path(out).rglob("last.pth")))
    return {"lines": lines, "result": f"{len(lines)} line, checkpoint of epoch {checkpoint.epoch} complete"}


def memory_of_stages(options: argparse.Namespace) -> Figures:
    """GPU memory at the start of each stage and after its epochs; the peak, next to the estimate of the dry run."""
    from afa.commands.dry_run import estimate_run
    from afa.config.hocon import load_settings
    from afa.entry import run
    from afa.training import loop
    from afa.training.stage import Stage

    used: list[tuple[str, float]] = []
    build_learner_, train_one_epoch = Stage.build_learner, loop.train_one_epoch

    def note(what: str) -> None:
        used.append((what, 0.0 if on_cpu(options) else torch.cuda.memory_allocated(options.device) / 2**20))

    def noting_build_learner(stage: Stage, context: Any) -> Learner:
        learner = build_learner_(stage, context)
        note(f"start of {stage.title}")
        return learner

    def noting_train_one_epoch(*arguments: Any) -> None:
        train_one_epoch(*arguments)
        note("epoch")

    with tempfile.TemporaryDirectory(prefix="afa_gpu_") as out:
        config, *more = arguments_of(options, out, "quiet=true")
        settings = load_settings(config, more)
        estimate = estimate_run(settings).gpu_bytes / 2**20
        Stage.build_learner, loop.train_one_epoch = noting_build_learner, noting_train_one_epoch  # type: ignore
        run(settings)
    peak = 0.0 if on_cpu(options) else torch.cuda.max_memory_reserved(options.device) / 2**20
    starts = [value for what, value in used if what != "epoch"]
    assert len(starts) == 2, used
    assert starts[1] < 1.1 * starts[0] + 1, f"stage two starts with more memory: {used}"
    shown = ", ".join(f"{what} {value:.0f}" for what, value in used)
    return {"used_mib": used, "result": f"MiB: {shown}; peak {peak:.0f}, dry run {estimate:.0f}"}


def compiled_epochs(options: argparse.Namespace) -> Figures:
    """Seconds of the first step of three epochs with a smaller last batch and a scoring: only the first compiles."""
    learner = learner_of(with_mode(options, compile_=True), NETWORK, METHOD)
    images, labels = batch(options, options.device)
    seconds = []
    for _ in range(3):
        learner.target.train()
        started = time.perf_counter()
        train_step(learner, images, labels).losses.total.item()
        seconds.append(time.perf_counter() - started)
        train_step(learner, images[: options.batch // 2], labels[: options.batch // 2])
        learner.target.evaluator()(images)
    assert max(seconds[1:]) < 0.2 * seconds[0], f"compiled again: {seconds}"
    return {"seconds": seconds, "result": ", ".join(f"{value:.2f} s" for value in seconds)}


def second_gpu(options: argparse.Namespace) -> Figures:
    """A process on GPU 1 uses nothing of GPU 0; a NaN is reported at its step or at the next one."""
    from afa.machine.device import choose_device

    device, _ = choose_device("1")
    learner = learner_of(with_mode(argparse.Namespace(**{**vars(options), "device": device})), NETWORK, METHOD)
    check, reported = FiniteCheck(device), 0
    images, labels = batch(options, device)
    with contextlib.suppress(NotFiniteError):
        for number in range(1, 6):
            step = train_step(learner, images * (float("nan") if number == 3 else 1.0), labels)
            reported = number
            check.check(step.scalars, lambda: "")
    assert reported in (3, 4), f"the NaN of step 3 is reported in step {reported}"
    assert not torch._C._cuda_hasPrimaryContext(0), "GPU 0 has a context of this process"
    return {"result": f"nothing on GPU 0; the NaN of step 3 is reported in step {reported}"}


FAILING = """
import os, sys
import torch
from afa.command_line import main
from afa.machine.signals import end_on_signals
from afa.training import engine

train_step = engine.train_step

def failing_step(*arguments):
    if os.environ["RANK"] == "1":
        raise torch.OutOfMemoryError("CUDA out of memory (for the test)")
    return train_step(*arguments)

engine.train_step = failing_step
end_on_signals()
sys.exit(main(sys.argv[1:]))
"""
"""A run in which process 1 has no memory for its first step; the others wait for its gradients."""


def two_processes(options: argparse.Namespace) -> Figures:
    """torchrun with two processes: workers, SIGTERM and resume; sync_bn with a last batch of one; one that fails."""
    interrupt_and_resume(options, signal.SIGTERM, "cache=none", processes=2)
    for precision in [] if on_cpu(options) else ["fp32", "bf16"]:
        with tempfile.TemporaryDirectory(prefix="afa_gpu_") as out:
            # 200 images: the last batch has one
            extra = ["sync_bn=true", "batch_size=199", "image_size=64", f"precision={precision}"]
            finish(start(options, out, *extra, processes=2))
            result = json.loads(Path(out, "run/result.json").read_text())
            assert result["repeats"][0][0]["epochs"] == 4, result
    with tempfile.TemporaryDirectory(prefix="afa_gpu_") as out:
        script = Path(out, "failing.py")
        script.write_text(FAILING)
        run = start(options, out, processes=2, script=str(script))
        wait_for(run, Path(out, "run/experiment.log"), "training images")
        started = time.monotonic()
        output = finish(run, expected=[1])
        seconds = time.monotonic() - started
        assert output.count("the GPU has not enough memory") == 1, output
    return {"seconds_to_end": seconds, "result": f"resumed; after an error of one process all end in {seconds:.0f} s"}
