"""The training loop of one stage (Algorithm 1): trains, evaluates after each epoch, keeps the best and the last."""

import contextlib
import math
import statistics
import time
from collections.abc import Generator

import torch
from torch import Tensor

from afa.data.loaders import Batch, Split, TestLoader
from afa.files import read_json, write_json
from afa.machine.context import Context
from afa.machine.signals import StoppedError
from afa.networks.features import FeatureNetwork
from afa.results.outcomes import EpochRow, Score, StageResult
from afa.results.records import Scalars, write_log, write_predictions
from afa.training.checkpoint import load_checkpoint
from afa.training.engine import Learner, Step, TestMetrics, TrainSums, predict, score, train_one_epoch
from afa.training.learner import build_target
from afa.training.numerics import FiniteCheck
from afa.training.optim import learning_rate_factor, set_learning_rate
from afa.training.stage import Stage
from afa.training.state import StageState, check_inputs, restore_state, save_best, save_state

COLLAPSED = 0.05
"""Below this normalised entropy an attention has collapsed on a few entries: eq. 8, linear in it, permits that."""


def train_stage(stage: Stage, context: Context) -> StageResult:
    """Train a stage to its end, from its start or its newest checkpoint; return the result of a finished stage.

    A signal stops it between two steps, while it waits for images, or while it scores.

    Raises:
        StoppedError: a signal stopped it; its state is saved.
        AFAError: a loss, gradient or weight is not finite; the last checkpoint is unchanged.
    """
    if stage.folder.result.exists():
        return read_result(stage)

    with context.signals.held():
        return _train(stage, context)


def _train(stage: Stage, context: Context) -> StageResult:
    # Initialise: networks, objective and optimiser, then the state of the newest checkpoint.
    processes, splits = context.processes, stage.splits
    named = {"training": splits.train, splits.selected_on: splits.monitor, "test": splits.test}
    counts = {f"{name} images": len(split.folder) for name, split in named.items()}
    processes.check_counts({"batch_size": stage.settings.data.batch_size, **counts})
    stage.folder.checkpoints.mkdir(parents=True, exist_ok=True)
    learner = stage.build_learner(context)
    processes.reseed(stage.seed)
    state = restore_state(stage, learner, context)
    learner = processes.wrap(learner)
    loader = stage.train_loader(context)
    steps = StepObserver(stage, learner, state, context)
    if not (state.step or state.history):
        # A full disk shows now, and a run that is killed in its first epoch has a checkpoint to resume from.
        steps.save()
    processes.on_main(write_log, stage.folder.log_txt, state.history)
    scalars = processes.on_main(Scalars, stage.folder, done=state.epoch)

    try:
        while state.epoch < stage.epochs:
            # Train one epoch.
            started = time.monotonic()
            with steps.observe_epoch():
                batches = context.signals.watch(loader.epoch(state.epoch, start=state.step))
                train_one_epoch(learner, batches, state.sums, steps.after_step)

            # Score it.
            row = steps.finish_epoch()
            best = max((earlier.top1 for earlier in state.history if earlier.is_scored), default=-1.0)
            state.history.append(row)
            state.step, state.sums = 0, TrainSums(len(learner.objective.attention_names), context.device)
            state.seconds += time.monotonic() - started

            # Log it.
            _log_epoch(stage, context, state.history, is_best=row.top1 > best)
            processes.on_main(write_log, stage.folder.log_txt, state.history)
            if scalars:
                scalars.write(row, splits.selected_on)

            # Save it; last.pth at the end, so that a process that is killed before repeats the epoch.
            if row.top1 > best:
                steps.check_weights()
                save_best(stage, learner, state, context)
            steps.save()
    except StoppedError:
        steps.save()
        raise
    return _evaluate_checkpoints(stage, state, context)


def read_result(stage: Stage) -> StageResult:
    """Result of a finished stage. Raises AFAError if it was modified, or if images or start weights changed since."""
    result = read_json(stage.folder.result, StageResult.from_dict)
    check_inputs(stage, result.inputs or {})
    return result


class StepObserver:
    """Progress, log lines, checks, checkpoints and signals between the training steps of a stage."""

    def __init__(self, stage: Stage, learner: Learner, state: StageState, context: Context) -> None:
        self.stage, self.learner, self.state, self.context = stage, learner, state, context
        self._finite = FiniteCheck(context.device)
        self._saved_at = time.monotonic()
        self._images = len(stage.splits.train.folder)
        self._batch_size = stage.settings.data.batch_size
        self._steps = stage.steps
        self._rate = self._images_per_second = 0.0

    @contextlib.contextmanager
    def observe_epoch(self) -> Generator[None]:
        """Set the learning rate of the current epoch, and show its progress."""
        stage, state, options = self.stage, self.state, self.stage.options
        self._rate = options.learning_rate * learning_rate_factor(
            state.epoch, epochs=stage.epochs, schedule=options.schedule, decay_factor=options.decay_factor
        )
        set_learning_rate(self.learner.optimizer, self._rate)
        self.learner.objective.set_progress(state.epoch / stage.epochs)
        self._where = f"{stage.title} epoch {state.epoch + 1}/{stage.epochs}"
        self._started, self._skipped = time.monotonic(), self._seen(state.step)
        later = self._images * (stage.epochs - state.epoch - 1)
        with self.context.journal.progress(self._where, self._images, done=self._skipped, later=later) as self._bar:
            yield
            self._finite.flush()
        self._measure_speed()

    def _seen(self, steps: int) -> int:
        """Images in the first ``steps`` batches of an epoch, over all processes."""
        return min(steps * self._batch_size, self._images)

    def _measure_speed(self) -> None:
        seen = self._seen(self.state.step) - self._skipped
        self._images_per_second = seen / (time.monotonic() - self._started) if seen else 0.0

    def after_step(self, batch: Batch, step: Step) -> None:
        """Check, count and log a step; save or stop if that is due or requested."""
        stage, state, signals = self.stage, self.state, self.context.signals
        state.step += 1
        self._finite.check(step.scalars, lambda: self._describe(batch))
        if state.step % stage.settings.run.print_freq == 0 or state.step == self._steps:
            top1 = state.sums.means(self.context.processes.mean).top1
            text = f"{step.describe()}, train top-1 {top1:.2f} %"
            losses = step.losses
            self._bar.show(f"cls {losses.classification:.3g}, align {losses.alignment:.3g}, top-1 {top1:.1f} %")
            self._measure_speed()
            self.context.journal.note(
                f"{self._where} step {state.step}/{self._steps}: {text}, {self._images_per_second:.1f} images/s"
            )
        number, unit = stage.settings.run.checkpoint_every.split()
        if unit == "steps":
            due = state.step % int(number) == 0
        else:
            due = time.monotonic() - self._saved_at >= 60 * float(number)
        save, requested, stop = self.context.processes.all_reduce_max(
            due, signals.take_save_request(), signals.stop_requested
        )
        if save or requested:
            self.save()
        if requested:
            self.context.journal.log(f"{stage.title}: checkpoint written at step {state.step} of the epoch")
        if stop:
            raise StoppedError(stop)
        self._bar.update(self._seen(state.step) - self._seen(state.step - 1))

    def _describe(self, batch: Batch) -> str:
        """Step, learning rate and images of a batch, for a message."""
        paths = [str(self.stage.splits.train.folder.paths[index]) for index in batch.indices.tolist()]
        return f"{self._where} step {self.state.step}, lr {self._rate:g}, images {', '.join(paths)}"

    def finish_epoch(self) -> EpochRow:
        """Score the monitored images, unless ``test_every`` skips the epoch, and return the metrics of the epoch."""
        stage, state, context = self.stage, self.state, self.context
        epoch = state.epoch + 1
        means, test = state.sums.means(context.processes.mean), TestMetrics(*[math.nan] * 4)
        context.processes.broadcast_buffers(self.learner.target)
        if epoch % stage.settings.run.test_every == 0 or epoch == stage.epochs:
            _, test = score_split(self.learner.target, stage, stage.splits.monitor, context)
        return EpochRow(
            epoch=epoch,
            learning_rate=self._rate,
            classification=means.classification,
            head_penalty=means.head_penalty,
            alignment=means.alignment,
            total=means.total,
            train_top1=means.top1,
            entropies=dict(zip(self.learner.objective.attention_names, means.entropies, strict=True)),
            images_per_second=self._images_per_second,
            loss=test.loss,
            top1=test.top1,
            top5=test.top5,
            balanced=test.balanced,
        )

    def check_weights(self) -> None:
        """Raise NotFiniteError if a weight is not finite; such weights are never saved."""
        self._finite.flush()
        self._finite.check_weights(self.learner.target.network.state_dict(), self.stage.title)

    def save(self) -> None:
        """Write ``last.pth``."""
        self.check_weights()
        save_state(self.stage, self.learner, self.state, self.context)
        self._saved_at = time.monotonic()


def _log_epoch(stage: Stage, context: Context, history: list[EpochRow], *, is_best: bool) -> None:
    """Print the metrics of the last epoch, and once per stage warn of an attention that has collapsed."""
    *earlier, row = history
    where, selected_on = f"{stage.title} epoch {row.epoch}/{stage.epochs}: ", stage.splits.selected_on
    context.journal.log(where + row.describe(selected_on, is_best=is_best))
    top5 = f"{selected_on} top-5 {row.top5:.2f} %, " if row.is_scored else ""
    context.journal.note(f"{where}{top5}{row.images_per_second:.0f} images/s")
    for name, entropy in row.entropies.items():
        if entropy < COLLAPSED and not any(before.entropies[name] < COLLAPSED for before in earlier):
            context.journal.log(
                f"{stage.title}: attention {name} has collapsed: normalised entropy {entropy:.3f} (see docs/methods.md)"
            )


def score_split(target: FeatureNetwork, stage: Stage, split: Split, context: Context) -> tuple[Tensor, TestMetrics]:
    """(N, K) logits of a split's images in the folder's order, and their metrics."""
    logits, labels = predict_split(target, stage.test_loader(split, context), f"{stage.title} testing", context)
    return logits, score(logits, labels)


def predict_split(target: FeatureNetwork, loader: TestLoader, title: str, context: Context) -> tuple[Tensor, Tensor]:
    """(N, K) logits and (N,) labels of the images of all processes, in the folder's order.

    Raises:
        StoppedError: a signal stopped one of the processes.
    """
    stopped = 0
    try:
        with context.signals.opened(), context.journal.progress(title, len(loader.indices)) as bar:
            own = predict(target.evaluator(), loader, bar.update)
    except StoppedError as error:
        stopped = error.number
    (stopped,) = context.processes.all_reduce_max(stopped)
    if stopped:
        raise StoppedError(stopped)
    logits, labels = (torch.cat(context.processes.gather(tensor)) for tensor in own)
    return logits, labels


def _evaluate_checkpoints(stage: Stage, state: StageState, context: Context) -> StageResult:
    """Load both checkpoints from their files, evaluate them on the test images, and write predictions and result."""
    scores = {}
    for path in (stage.folder.last, stage.folder.best):
        checkpoint = load_checkpoint(path)
        target = build_target(stage.settings.backbone, checkpoint, path, stage.classes, context.device)
        logits, metrics = score_split(target, stage, stage.splits.test, context)
        scores[path] = Score(checkpoint.epoch, checkpoint.top1, *metrics)
    images = stage.splits.test.folder
    context.processes.on_main(
        write_predictions,
        stage.folder,
        paths=images.paths,
        labels=torch.tensor(images.labels),
        logits=logits,
        classes=stage.classes,
    )
    result = StageResult(
        method=stage.options.label,
        seed=stage.seed,
        epochs=stage.epochs,
        selected_on=stage.splits.selected_on,
        best=scores[stage.folder.best],
        last=scores[stage.folder.last],
        images_per_second=statistics.median(row.images_per_second for row in state.history),
        seconds=state.seconds,
        folder=str(stage.folder.path),
        start=stage.start.origin,
        steps=stage.epochs * math.ceil(len(stage.splits.train.folder) / stage.settings.data.batch_size),
        inputs=stage.inputs,
    )
    context.processes.on_main(write_json, stage.folder.result, result.to_dict())
    return result
