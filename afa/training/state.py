"""The resumable state of a stage, consistent between two steps: saved and restored."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from afa.config.formatting import format_settings
from afa.errors import CheckpointError, one_line
from afa.machine.context import Context
from afa.networks.weights import load_state, problem_of
from afa.results.outcomes import EpochRow
from afa.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, set_aside
from afa.training.engine import Learner, TrainSums
from afa.training.stage import Stage

_RESTART = "overwrite=true renames the folder and starts again"


@dataclass
class StageState:
    """Progress of a stage.

    Attributes:
        sums: over the batches of the current epoch, of which ``step`` are done.
        history: the complete epochs; ``seconds`` is the time that they took.
    """

    sums: TrainSums
    step: int = 0
    history: list[EpochRow] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def epoch(self) -> int:
        """The current epoch, counted from 0."""
        return len(self.history)


def save_state(stage: Stage, learner: Learner, state: StageState, context: Context) -> None:
    """Write ``last.pth``: the network and what is needed to resume. The previous file becomes ``previous.pth``."""
    processes = context.processes
    generator, *others = processes.gather(torch.get_rng_state())
    on_gpu = context.device.type == "cuda"
    cuda_generator, *cuda_others = processes.gather(torch.cuda.get_rng_state(context.device)) if on_gpu else [None]
    training: dict[str, Any] = {
        "optimizer": learner.optimizer.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "generator": generator,
        "cuda_generator": cuda_generator,
        "other_generators": list(zip(others, *([cuda_others] if on_gpu else []), strict=True)),
        "step": state.step,
        "sums": processes.mean(state.sums.sums).cpu(),
        "history": [row.to_dict() for row in state.history],
        "seconds": state.seconds,
        "inputs": stage.inputs,
        "log_position": context.journal.position(),
    }
    checkpoint = replace(_checkpoint(stage, learner, state), training=training)
    processes.on_main(save_checkpoint, checkpoint, stage.folder.last, keep=stage.folder.previous)


def save_best(stage: Stage, learner: Learner, state: StageState, context: Context) -> None:
    """Write ``best.pth``: the network after the last epoch in ``history``."""
    context.processes.on_main(save_checkpoint, _checkpoint(stage, learner, state), stage.folder.best)


def _checkpoint(stage: Stage, learner: Learner, state: StageState) -> Checkpoint:
    return Checkpoint(
        model=learner.target.network.state_dict(),
        attention=learner.objective.state_dict(),
        backbone=stage.settings.backbone.name,
        aligned_layers=list(learner.target.aligned_layers),
        classes=list(stage.classes),
        image_size=stage.preprocessing.image_size,
        augmentation=stage.preprocessing.augmentation,
        background=stage.preprocessing.background,
        grey_range=stage.preprocessing.grey_range,
        method=stage.options.method,
        epoch=state.epoch,
        split=stage.splits.selected_on,
        top1=state.history[-1].top1 if state.history else 0.0,
        balanced=state.history[-1].balanced if state.history else math.nan,
        settings=format_settings(stage.settings),
    )


def restore_state(stage: Stage, learner: Learner, context: Context) -> StageState:
    """Load the newest intact checkpoint into ``learner``, if there is one, and return the state of the stage.

    Raises:
        CheckpointError: no checkpoint is intact, or the images or the start have changed.
    """
    with context.processes.main_first():  # it renames a damaged file
        state = StageState(TrainSums(len(learner.objective.attention_names), context.device))
        checkpoint, damage = newest_checkpoint(stage)
        if checkpoint is not None:
            try:
                check_inputs(stage, checkpoint.training["inputs"])
                _restore(stage, checkpoint, learner, state, context)
            except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
                raise CheckpointError(f"{stage.folder.last}: cannot be resumed: {one_line(error)}") from None
            # Otherwise lines about steps that are now repeated would be in the log twice.
            context.journal.cut(checkpoint.training["log_position"])
            if damage:
                set_aside(stage.folder.last)
                context.journal.log(f"{damage}; resuming from {stage.folder.previous.name}")
            if state.epoch < stage.epochs:
                step = f" and step {state.step} of the next" if state.step else ""
                context.journal.log(f"{stage.title}: resuming after epoch {state.epoch} of {stage.epochs}{step}")
    context.processes.check_equal(f"{stage.folder.path}: outpath", state.epoch, state.step)
    return state


def check_inputs(stage: Stage, before: dict[str, str]) -> None:
    """Raise CheckpointError if images or start weights differ, by their digests, from those of the first start.

    Digests that ``before`` does not contain are not compared: version 0.1.0 did not store those of all test images.
    """
    changed = [name for name, value in stage.inputs.items() if before.get(name, value) != value]
    if changed:
        raise CheckpointError(
            f"{stage.folder.path}: cannot resume, the {', the '.join(changed)} changed since its start; {_RESTART}"
        )


def _optimizer_state(learner: Learner, stored: dict[Any, Any]) -> dict[str, Any]:
    """The optimiser's state dict with the stored momentum, and the hyper-parameters of the config.

    Raises:
        ValueError: the momentum is not that of the optimiser's parameters; with other shapes torch could crash.
    """
    own = learner.optimizer.state_dict()
    parameters = [parameter for group in learner.optimizer.param_groups for parameter in group["params"]]
    for index, state in stored.items():
        if type(index) is not int or not 0 <= index < len(parameters) or state.keys() != {"momentum_buffer"}:
            raise ValueError(f"the optimiser has no state {index!r}")
        buffer, parameter = state["momentum_buffer"], parameters[index]
        if buffer is None:
            continue
        if problem_of(buffer) or (buffer.shape, buffer.dtype) != (parameter.shape, parameter.dtype):
            raise ValueError(f"the momentum of parameter {index} is not a tensor of shape {tuple(parameter.shape)}")
        if not buffer.isfinite().all():
            raise ValueError(f"the momentum of parameter {index} is not finite")
    return {"state": stored, "param_groups": own["param_groups"]}


def _scaler_state(learner: Learner, stored: dict[str, Any]) -> dict[str, Any]:
    """The state dict of the loss scaling with the stored scale, and the other values of this program."""
    own = learner.scaler.state_dict()
    for name in own.keys() & {"scale", "_growth_tracker"}:
        value = stored[name]
        if type(value) not in (int, float) or not 0 <= value < math.inf:
            raise ValueError(f"the loss scaling has {name} = {value!r}")
        own[name] = value
    return own


def _restore(stage: Stage, checkpoint: Checkpoint, learner: Learner, state: StageState, context: Context) -> None:
    training = checkpoint.training
    path, step_sums = stage.folder.last, state.sums.sums
    load_state(learner.target.network, checkpoint.model, path)
    load_state(learner.objective, checkpoint.attention, path)
    learner.optimizer.load_state_dict(_optimizer_state(learner, training["optimizer"]["state"]))
    learner.scaler.load_state_dict(_scaler_state(learner, training["scaler"]))
    if training["sums"].shape != step_sums.shape or not training["sums"].isfinite().all():
        raise ValueError("the sums of the epoch have another shape, or are not finite")
    if training["step"] > stage.steps or len(training["history"]) > stage.epochs:
        raise ValueError(f"step {training['step']} of {stage.steps}, epoch {checkpoint.epoch} of {stage.epochs}")
    generators = [(training["generator"], training["cuda_generator"]), *training.get("other_generators", ())]
    if len(generators) == context.processes.size:  # otherwise dropout draws other numbers than before
        generator, *cuda_generators = generators[context.processes.rank]
        torch.set_rng_state(generator)
        if context.device.type == "cuda" and cuda_generators and cuda_generators[0] is not None:
            torch.cuda.set_rng_state(cuda_generators[0], context.device)
    state.sums.sums = training["sums"].to(context.device)
    state.step, state.history, state.seconds = training["step"], checkpoint.history, training["seconds"]


def newest_checkpoint(stage: Stage) -> tuple[Checkpoint | None, str]:
    """Read ``last.pth``, or if it is damaged ``previous.pth``; None for a stage that was not started.

    Returns:
        the checkpoint, and what is wrong with ``last.pth``.
    """
    last, previous = stage.folder.last, stage.folder.previous
    if not last.exists() and not previous.exists():
        return None, ""
    try:
        return load_checkpoint(last), ""
    except CheckpointError as damage:
        try:
            return load_checkpoint(previous), str(damage)
        except CheckpointError as other:
            raise CheckpointError(f"{damage}; {other}; {_RESTART}") from None
