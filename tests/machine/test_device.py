"""The choice of the GPU, with stubs instead of torch's CUDA functions."""

import re

import pytest
import torch

from afa.errors import ConfigError, NotFiniteError
from afa.machine.device import choose_device
from afa.machine.launch import Launch
from afa.training.numerics import FiniteCheck

TOO_OLD = "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU driver"
BUSY = "CUDA error: all CUDA-capable devices are busy or unavailable"


@pytest.fixture
def two_gpus(monkeypatch):
    """torch finds two GPUs, and computes on the CPU; a list of the calls of ``set_device``."""
    current, ones = [], torch.ones
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", current.append)
    monkeypatch.setattr("torch.ones", lambda size, device: ones(size))
    return current


@pytest.mark.parametrize(
    ("gpu_id", "launch", "index"),
    [("0", Launch(), 0), ("1", Launch(), 1), ("1,0", Launch(), 1), ("0", Launch(1, 2, 1, 2), 1)],
)
def test_the_chosen_gpu_becomes_the_current_one(two_gpus, gpu_id, launch, index):
    device, _ = choose_device(gpu_id, launch)
    assert device == torch.device("cuda", index)
    assert two_gpus == [device]


@pytest.mark.parametrize("error", [torch.AcceleratorError(BUSY), torch.OutOfMemoryError("CUDA out of memory")])
def test_a_gpu_that_does_not_compute_is_refused_in_one_line(two_gpus, monkeypatch, error):
    def fail(*_arguments, **_keywords):
        raise error

    monkeypatch.setattr("torch.ones", fail)
    with pytest.raises(ConfigError, match=rf"^gpu_id: GPU 1 cannot be used: {error}.*; gpu_id=cpu runs on the CPU$"):
        choose_device("1")


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (RuntimeError("Found no NVIDIA driver on your system. Please check"), "no CUDA GPU found: running on the CPU"),
        (RuntimeError("No CUDA GPUs are available"), "no CUDA GPU found: running on the CPU"),
        (
            AssertionError("Torch not compiled with CUDA enabled"),
            "no CUDA GPU found (torch is built without CUDA): running on the CPU",
        ),
        (RuntimeError(TOO_OLD), None),
        (RuntimeError("CUDA unknown error - this may be due to an incorrectly set up environment"), None),
    ],
)
def test_only_a_machine_without_a_gpu_runs_on_the_cpu(monkeypatch, error, note):
    def fail():
        raise error

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.init", fail)
    if note:
        assert choose_device("0") == (torch.device("cpu"), note)
    else:
        with pytest.raises(
            ConfigError, match=rf"cannot use the GPU: {re.escape(str(error))}; gpu_id=cpu runs on the CPU$"
        ):
            choose_device("0")
    assert choose_device("cpu") == (torch.device("cpu"), "")


def test_the_finite_check_waits_for_the_stream_of_its_own_gpu(monkeypatch):
    """Not for that of the current GPU: the values of another GPU may not have arrived yet."""
    calls = []

    class Event:
        def record(self, stream=None):
            calls.append(("record", stream))

        def synchronize(self):
            calls.append(("synchronize", None))

    monkeypatch.setattr("torch.cuda.Event", Event)
    monkeypatch.setattr("torch.cuda.current_stream", lambda device=None: f"stream of {device}")
    check = FiniteCheck(torch.device("cuda", 1))
    check.check({"total": torch.tensor(1.0)}, lambda: "step 1")
    check.check({"total": torch.tensor(float("nan"))}, lambda: "step 2")  # reads step 1 alone
    assert calls == [("record", "stream of cuda:1"), ("record", "stream of cuda:1"), ("synchronize", None)]
    with pytest.raises(NotFiniteError, match="total nan; step 2"):
        check.flush()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_computes():
    device, note = choose_device("0")
    assert (device, note) == (torch.device("cuda", 0), "")
    assert torch.cuda.current_device() == 0
