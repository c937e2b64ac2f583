"""On an imaginary GPU, whose tensors have shapes and devices but no values, no tensors of two devices meet."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_map_only

from afa.commands.algorithm import stages
from afa.commands.fixed_weights import with_fixed_weights
from afa.commands.image_reader import Images
from afa.machine.context import Context
from afa.machine.signals import Signals
from afa.results.journal import Journal
from afa.results.run_folder import RunFolder
from afa.training.checkpoint import load_checkpoint
from afa.training.engine import TrainSums, predict, train_one_epoch
from afa.training.numerics import FiniteCheck
from afa.training.state import StageState, save_best, save_state

GPU = torch.device("cuda", 0)


def apply_to_all(module, function, recurse=True):
    """``nn.Module._apply``, which cannot move tensors without values."""
    for child in module.children():
        child._apply(function)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            module._parameters[name] = nn.Parameter(function(parameter.detach()), parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = function(buffer)
    return module


def deep_copy(tensor, memo):
    copy = tensor.detach().clone()
    if isinstance(tensor, nn.Parameter):
        copy = nn.Parameter(copy, tensor.requires_grad)
    return memo.setdefault(id(tensor), copy)


@pytest.fixture
def gpu(monkeypatch):
    """What happens on the imaginary GPU.

    Attributes:
        trained: parameters to which each backward pass gives gradients of zeros; torch's own needs a real GPU.
        reads: the types of the devices from which values were read; each value is 1.
    """
    gpu = SimpleNamespace(trained=[], reads=[])

    def backward(loss):
        assert loss.requires_grad
        assert loss.device == GPU
        for parameter in gpu.trained:
            parameter.grad = torch.zeros_like(parameter)

    def read(tensor):
        gpu.reads.append(tensor.device.type)
        return np.ones(tensor.shape).tolist()

    def fused_sgd(parameters, gradients, momenta, *, grad_scale, found_inf, **options):
        for tensors in zip(parameters, gradients, momenta, strict=True):
            assert {tensor.device for tensor in tensors} == {GPU}
            assert len({tensor.stride() for tensor in tensors}) == 1  # a kernel on a GPU demands it
        assert {tensor.device for tensor in (grad_scale, found_inf) if tensor is not None} <= {GPU}

    event = SimpleNamespace(record=lambda stream: None, synchronize=lambda: None)
    monkeypatch.setattr(nn.Module, "_apply", apply_to_all)
    monkeypatch.setattr(FakeTensor, "__deepcopy__", deep_copy, raising=False)
    monkeypatch.setattr(FakeTensor, "__bool__", lambda tensor: bool(read(tensor)), raising=False)
    for name in ("tolist", "item"):
        monkeypatch.setattr(FakeTensor, name, read, raising=False)
    monkeypatch.setattr(FakeTensor, "backward", backward, raising=False)
    monkeypatch.setattr("torch._fused_sgd_", fused_sgd)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.Event", lambda: event)
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: None)
    monkeypatch.setattr("torch.cuda.get_rng_state", lambda device: torch.zeros(16, dtype=torch.uint8))
    return gpu


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("ast", {"data_aug": "improved", "channels_last": "false"}),
        ("delta", {"precision": "fp16", "class_weights": "balanced", "grad_clip": 1.0}),
    ],
)
def test_build_steps_sums_evaluation_and_saving_on_a_gpu(settings_for, gpu, monkeypatch, tmp_path, method, more):
    settings = settings_for(reg_type=method, **more)
    on_cpu = Context(torch.device("cpu"), Journal(tmp_path / "log"), Signals())
    context = replace(on_cpu, device=GPU)
    stage = next(stages(settings, Images(settings.data, on_cpu), RunFolder(tmp_path)))
    stage = with_fixed_weights(stage, on_cpu, uniform=True)
    stage.folder.checkpoints.mkdir(parents=True)
    assert stage.inputs  # reads the images and the weights
    with FakeTensorMode(allow_non_fake_inputs=True):
        learner = stage.build_learner(context)
        gpu.trained = [parameter for group in learner.optimizer.param_groups for parameter in group["params"]]
        finite, sums = FiniteCheck(GPU), TrainSums(len(learner.objective.attention_names), GPU)
        batches = itertools.islice(without_pinned_memory(stage.train_loader(context)).epoch(0), 2)
        gpu.reads = []
        train_one_epoch(
            learner, batches, sums, lambda batch, step: finite.check(step.scalars, lambda: f"{len(batch.indices)}")
        )
        assert gpu.reads == ["cpu"]  # the scalars of the first step: no step waits for the GPU
        finite.flush()
        finite.check_weights(learner.target.network.state_dict(), "")
        assert sums.means().top1 == 100
        loader = without_pinned_memory(stage.test_loader(stage.splits.test, context))
        logits, labels = predict(learner.target.evaluator(), loader)
        assert (logits.shape, logits.device.type, labels.device.type) == ((9, 3), "cpu", "cpu")
        assert learner.scaler.is_enabled() == (more.get("precision") == "fp16")

    def with_values(content):
        return tree_map_only(torch.Tensor, lambda tensor: torch.zeros(tensor.shape, dtype=tensor.dtype), content)

    save = torch.save
    monkeypatch.setattr("torch.save", lambda content, path: save(with_values(content), path))
    save_state(stage, learner, StageState(sums, step=2), context)
    save_best(stage, learner, StageState(sums), context)
    for path in (stage.folder.last, stage.folder.best):
        assert load_checkpoint(path).model.keys() == learner.target.network.state_dict().keys()


def without_pinned_memory(loader):
    """Which needs a real GPU."""
    loader._pinned = False
    return loader
