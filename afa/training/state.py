"""Where a stage is: between two steps, all that the rest of it depends on; saved and restored."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from afa.config.layout import BEST, LAST, PREVIOUS
from afa.errors import CheckpointError, one_line
from afa.results.figures import Row
from afa.results.journal import Journal
from afa.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, set_aside
from afa.training.engine import Learner, TrainSums
from afa.training.job import StageJob

_ANEW = "overwrite=true starts anew and keeps the old folder beside"


@dataclass
class StageState:
    """``history``: whole epochs; ``step``, ``sums``: batches of the epoch begun; ``seconds`` spent on whole epochs."""

    sums: TrainSums
    step: int = 0
    history: list[Row] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def epoch(self) -> int:
        """The epoch begun, counted from 0."""
        return len(self.history)


def save_state(job: StageJob, learner: Learner, state: StageState, log_position: int) -> None:
    """Write ``last.pth``: the network as it stands and what is needed to go on; the one before is kept."""
    generators = [torch.get_rng_state()]
    if job.device.type == "cuda":
        generators.append(torch.cuda.get_rng_state(job.device))
    training: dict[str, Any] = {
        "optimizer": learner.optimizer.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "generator": generators[0],
        "cuda_generator": generators[1] if job.device.type == "cuda" else None,
        "other_generators": list(zip(*(job.world.others(own) for own in generators), strict=True)),
        "step": state.step,
        "sums": state.sums.sums.cpu(),
        "history": list(state.history),
        "seconds": state.seconds,
        "inputs": job.inputs,
        "log_position": log_position,
    }
    checkpoint = replace(_checkpoint(job, learner, state), training=training)
    job.world.lead(save_checkpoint, checkpoint, job.folder / LAST, keep=job.folder / PREVIOUS)


def save_best(job: StageJob, learner: Learner, state: StageState) -> None:
    """Write ``best.pth``: the network after the epoch that was last in ``history``."""
    job.world.lead(save_checkpoint, _checkpoint(job, learner, state), job.folder / BEST)


def _checkpoint(job: StageJob, learner: Learner, state: StageState) -> Checkpoint:
    return Checkpoint(
        model=learner.target.network.state_dict(),
        attention=learner.objective.state_dict(),
        backbone=job.backbone.name,
        aligned_layers=list(learner.target.aligned_layers),
        classes=list(job.classes),
        image_size=job.preprocessing.image_size,
        augmentation=job.preprocessing.augmentation,
        method=job.stage.method,
        epoch=state.epoch,
        split=job.splits.selected_on,
        top1=state.history[-1]["top1"] if state.history else 0.0,
        settings=job.settings_text,
    )


def restore_state(job: StageJob, learner: Learner, journal: Journal) -> StageState:
    """Bring the learner to where the stage is: its start, or its newest checkpoint that is whole.

    Raises:
        CheckpointError: no checkpoint is whole, or the images or the start have changed since.
    """
    with job.world.leader_first():  # it sets a damaged file aside
        state = _restore_newest(job, learner, journal)
    job.world.check_same(f"{job.folder}: outpath", state.epoch, state.step)
    return state


def _restore_newest(job: StageJob, learner: Learner, journal: Journal) -> StageState:
    state = StageState(TrainSums(len(learner.objective.attention_names), learner.device))
    checkpoint, damage = newest_checkpoint(job)
    if checkpoint is None:
        return state
    try:
        check_inputs(job, checkpoint.training["inputs"])
        _restore(checkpoint, job, learner, state)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise CheckpointError(f"{job.folder / LAST}: not a checkpoint to go on from: {one_line(error)}") from None
    # What the run said of steps that are now done again would stand there twice.
    journal.cut(checkpoint.training["log_position"])
    if damage:
        set_aside(job.folder / LAST)
        journal.say(f"{damage}; going on from {PREVIOUS.name}")
    if state.epoch < job.epochs:
        step = f" and step {state.step} of the next" if state.step else ""
        journal.say(f"{job.title}: going on after epoch {state.epoch} of {job.epochs}{step}")
    return state


def check_inputs(job: StageJob, before: dict[str, str]) -> None:
    """Raises CheckpointError where images or start are not those, by their digests, that the stage began with."""
    changed = [name for name, value in job.inputs.items() if before.get(name) != value]
    if changed:
        raise CheckpointError(
            f"{job.folder}: cannot go on, since it began the {', the '.join(changed)} changed; {_ANEW}"
        )


def _restore(checkpoint: Checkpoint, job: StageJob, learner: Learner, state: StageState) -> None:
    training = checkpoint.training
    learner.target.network.load_state_dict(checkpoint.model)
    learner.objective.load_state_dict(checkpoint.attention)
    learner.optimizer.load_state_dict(training["optimizer"])
    learner.scaler.load_state_dict(training["scaler"])
    everybodys = [(training["generator"], training["cuda_generator"]), *training.get("other_generators", ())]
    if len(everybodys) == job.world.size:  # begun by another number of processes, it goes on with new dropout
        generator, *cuda_generators = everybodys[job.world.part[0]]
        torch.set_rng_state(generator)
        if job.device.type == "cuda" and cuda_generators and cuda_generators[0] is not None:
            torch.cuda.set_rng_state(cuda_generators[0], job.device)
    state.sums.sums = training["sums"].to(job.device)
    state.step, state.history, state.seconds = training["step"], list(training["history"]), training["seconds"]


def newest_checkpoint(job: StageJob) -> tuple[Checkpoint | None, str]:
    """``last.pth``, or the one before and what is wrong with the last; None for a stage not begun."""
    last, previous = job.folder / LAST, job.folder / PREVIOUS
    if not last.exists() and not previous.exists():
        return None, ""
    try:
        return load_checkpoint(last), ""
    except CheckpointError as damage:
        try:
            checkpoint = load_checkpoint(previous)
        except CheckpointError as other:
            raise CheckpointError(f"{damage}; nor does the one before do: {other}; {_ANEW}") from None
        return checkpoint, str(damage)
