"""bf16, fp16 and torch.compile in a step; what the hardware does not have is refused."""

import subprocess
import sys

import pytest
import torch
from functorch.compile import nop
from torch._dynamo.backends.common import aot_autograd
from torch._inductor.exc import InductorError

from afa.config.settings import ComputeSettings
from afa.errors import AFAError, ConfigError
from afa.training.engine import train_step
from afa.training.numerics import Precision
from tests.learners import demo_learner

CPU = torch.device("cpu")


@pytest.fixture
def learner_with(settings_for, monkeypatch):
    """A learner of AST on the demo's source, computing as asked, on a CPU that has what it takes."""
    monkeypatch.setattr("afa.training.numerics._missing_hardware", lambda name, device: "")

    def build(**compute):
        settings = settings_for(reg_type="ast")
        learner, _ = demo_learner(settings, compute=ComputeSettings(**compute))
        learner.target.network.classifier[0].p = 0.0
        learner.target.train()
        return learner

    return build


def steps(learner, count=2):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, 64, 64, generator=generator)
    return [train_step(learner, images, torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])) for _ in range(count)]


def first_accepted(learner):
    """The first step that changes a weight, and the number of steps before it: those whose gradient overflows."""
    start = [parameter.detach().clone() for parameter in learner.target.parameters()]
    learner.scaler.set_backoff_factor(1 / 16)  # instead of 1/2: fewer steps
    for overflows in range(5):
        (step,) = steps(learner, 1)
        if step.gradient_norm > 0:
            return step, overflows
        assert all(map(torch.equal, learner.target.parameters(), start))
    raise AssertionError("all steps overflow")


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.1), ("fp16", 0.02)])
def test_in_sixteen_bits_losses_and_weights_stay_float32(learner_with, precision, tolerance):
    learner = learner_with(precision=precision)
    step, _ = first_accepted(learner)
    (exact,) = steps(learner_with(), 1)
    assert {value.dtype for value in (*step.losses, step.gradient_norm)} == {torch.float32}
    assert {parameter.dtype for parameter in learner.target.parameters()} == {torch.float32}
    assert step.losses.total.item() == pytest.approx(exact.losses.total.item(), rel=tolerance)
    assert step.losses.total != exact.losses.total
    assert step.gradient_norm.item() == pytest.approx(exact.gradient_norm.item(), rel=10 * tolerance)


@pytest.fixture
def uninitialised_is_nan():
    """torch gives memory that it allocates without a value the value NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.usefixtures("uninitialised_is_nan")
def test_after_steps_that_overflow_in_fp16_the_first_step_is_that_of_plain_sgd(learner_with, resumed):
    learner = learner_with(precision="fp16")
    optimizer = learner.optimizer
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if resumed:  # from a checkpoint without momentum
        state = {index: {"momentum_buffer": None} for index in range(len(trained))}
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    start = [parameter.detach().clone() for parameter in trained]
    step, overflows = first_accepted(learner)
    assert overflows > 0
    assert learner.scaler.get_scale() == 2.0 ** (16 - 4 * overflows)
    gradients = [torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in trained]
    assert step.gradient_norm == torch.stack([gradient.norm() for gradient in gradients]).norm()
    rate = optimizer.param_groups[0]["lr"]
    for parameter, before, gradient in zip(trained, start, gradients, strict=True):
        torch.testing.assert_close(parameter.detach(), before - rate * gradient, rtol=1e-6, atol=1e-9)
        assert torch.equal(optimizer.state[parameter]["momentum_buffer"], gradient)


def test_steps_in_fp32_have_the_bits_of_torchs_own_momentum(learner_with):
    own, torchs = learner_with(), learner_with()
    torchs.optimizer._optimizer_step_pre_hooks.clear()
    for learner in (own, torchs):
        steps(learner, 3)
    for one, other in zip(
        *(learner.optimizer.state_dict()["state"].values() for learner in (own, torchs)), strict=True
    ):
        assert torch.equal(one["momentum_buffer"], other["momentum_buffer"])
    assert all(map(torch.equal, own.target.parameters(), torchs.target.parameters()))


@pytest.mark.parametrize(
    ("name", "needs"), [("tf32", "a CUDA GPU"), ("fp16", "a CUDA GPU"), ("bf16", "a CUDA GPU, or a CPU with avx512")]
)
def test_a_cpu_refuses_what_it_has_no_hardware_for(monkeypatch, name, needs):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    with pytest.raises(ConfigError, match=f"precision: {name} needs {needs}.*use fp32 here"):
        Precision(name, CPU)


def test_a_gpu_before_ampere_refuses_bf16_and_tf32(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (7, 5))
    for name in ("bf16", "tf32"):
        with pytest.raises(ConfigError, match="compute capability 8"):
            Precision(name, torch.device("cuda", 0))
    assert Precision("fp16", torch.device("cuda", 0)).name == "fp16"


def test_products_are_whole_float32_but_in_a_step_that_asks_for_less():
    def flags():
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before = flags()
    with Precision("fp32", CPU).products():
        assert flags() == (False, False)
    assert flags() == before


@pytest.mark.parametrize(
    "setting",
    [
        "pass",
        "torch.backends.cuda.matmul.allow_tf32 = True",
        "torch.set_float32_matmul_precision('high')",
        "torch.backends.fp32_precision = 'tf32'",
        "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
        "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    ],
)
def test_whatever_a_caller_has_set_the_products_are_those_of_the_precision_and_the_setting_returns(setting):
    """In a process of its own, because torch cannot restore every setting."""
    script = f"""
import torch
from afa.training.numerics import products_in_tf32
{setting}
def flags():
    backends = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    return [backend.fp32_precision == "tf32" for backend in backends]
before = flags()
for _ in range(2):
    with products_in_tf32(False):
        assert flags() == [False, False]
        with products_in_tf32(True):
            assert flags() == [True, True]
        assert flags() == [False, False]
    assert flags() == before, (flags(), before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr


def test_a_compiler_that_fails_is_one_line(learner_with, monkeypatch):
    def fail(module, example_inputs):
        raise RuntimeError("no compiler\nhere")

    real = torch.compile
    monkeypatch.setattr("torch.compile", lambda module, **options: real(module, backend=fail, **options))
    with pytest.raises(AFAError, match=r"compile = true: torch cannot compile here \(.*set compile = false"):
        steps(learner_with(compile=True))


def test_a_backward_pass_that_cannot_be_compiled_is_one_line(learner_with, monkeypatch):
    """It is compiled at its first call, after the forward pass."""

    def fail(module, example_inputs):
        raise InductorError(RuntimeError("no compiler\nhere"), None)

    backend, real = aot_autograd(fw_compiler=nop, bw_compiler=fail), torch.compile
    monkeypatch.setattr("torch.compile", lambda module, **options: real(module, backend=backend, **options))
    with pytest.raises(AFAError, match=r"compile = true: torch cannot compile here \(.*no compiler here\)"):
        steps(learner_with(compile=True))


def test_after_a_scoring_nothing_is_compiled_again(learner_with, monkeypatch):
    compiled = []

    def count(module, example_inputs):
        compiled.append(module)
        return module.forward

    real = torch.compile
    monkeypatch.setattr("torch.compile", lambda module, **options: real(module, backend=count, **options))
    learner = learner_with(compile=True)
    for _ in range(3):
        learner.target.train()
        steps(learner, 1)
        learner.target.evaluator()
    assert len(compiled) == 1


def test_what_is_compiled_computes_the_same(learner_with, monkeypatch):
    """Up to the code generator, which takes a minute."""
    real = torch.compile
    monkeypatch.setattr("torch.compile", lambda module, **options: real(module, backend="aot_eager", **options))
    for own, plain in zip(steps(learner_with(compile=True)), steps(learner_with()), strict=True):
        torch.testing.assert_close(own.losses, plain.losses, rtol=1e-4, atol=0)
