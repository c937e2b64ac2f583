"""The optimiser, its parameter groups, and the learning rate schedules as pure functions (paper, section 5.1)."""

import math
from typing import Any

import torch
from torch.optim import SGD, Optimizer

from afa.method.objectives import Objective
from afa.networks.features import FeatureNetwork


def build_optimizer(
    target: FeatureNetwork, objective: Objective, *, learning_rate: float, momentum: float, weight_decay: float
) -> SGD:
    """SGD with one learning rate over the backbone, the head and the objective's own parameters.

    The third group is named ``attention``; for LwF it is the old head.
    """
    groups = {
        "backbone": target.backbone_parameters(),
        "head": target.head_parameters(),
        "attention": list(objective.parameters()),
    }
    trained = {name: [p for p in parameters if p.requires_grad] for name, parameters in groups.items()}
    optimizer = SGD(
        [{"params": parameters, "name": name} for name, parameters in trained.items() if parameters],
        lr=learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
        # One kernel over all parameters; on a CPU the other two implementations take 2 to 4 times as long.
        fused=True,
    )
    optimizer.register_step_pre_hook(start_momentum)
    return optimizer


def start_momentum(optimizer: Optimizer, *step: Any) -> None:
    """Set a momentum that does not exist yet to 0, from which the first step computes the same bits as torch's.

    Called before each step, with the arguments of the step, so that a resumed momentum is complete too.

    torch allocates the momentum of a fused first step without a value. If the gradient scaler skips that step, because
    its gradient overflows, the kernel writes no value either, and the next step would use what the memory contained.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if group["momentum"] and state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter)


def set_learning_rate(optimizer: SGD, learning_rate: float) -> None:
    """Set the rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def count_epochs(max_iter: int, *, batch_size: int, images: int) -> int:
    """Number of epochs nearest to ``max_iter`` steps, at least one."""
    return max(1, round(max_iter * batch_size / images))


def learning_rate_factor(epoch: int, *, epochs: int, schedule: str, decay_factor: float) -> float:
    """Factor of the learning rate in ``epoch``, counted from 0.

    ``steplr``: ``decay_factor`` from epoch ``int(0.67 * epochs)`` on; a run of one epoch does not decay.
    ``coslr``: half a cosine from 1 towards 0, which it would reach at ``epoch == epochs``.
    ``explr``: ``decay_factor`` every 6 epochs, exponentially.
    """
    if schedule == "coslr":
        return (1 + math.cos(math.pi * epoch / epochs)) / 2
    if schedule == "explr":
        return decay_factor ** (epoch / 6)
    return decay_factor if epoch >= max(int(0.67 * epochs), 1) else 1.0
