"""One stage of Algorithm 1: train for its epochs, score each, keep the best and the last."""

import math
import statistics
import time
from dataclasses import replace

import torch
from torch import Tensor

from afa.config.layout import BEST, LAST
from afa.data.loaders import Batch, TrainLoader
from afa.errors import AFAError
from afa.networks.features import FeatureNetwork
from afa.results.figures import Row, Score, StageResult
from afa.results.journal import Journal
from afa.results.records import NoScalars, Scalars, read_json, write_json, write_log, write_predictions
from afa.training.checkpoint import load_checkpoint
from afa.training.engine import Step, TestFigures, TrainSums, predict, score, train_one_epoch
from afa.training.finite import FiniteCheck
from afa.training.job import StageJob, check_last_batch
from afa.training.optim import learning_rate_factor, set_learning_rate
from afa.training.setup import build_learner, build_target
from afa.training.signals import Signals, StoppedError
from afa.training.splits import Split
from afa.training.state import restore_state, save_best, save_state

ENTROPY_FLOOR = 0.05
"""Below this part of its maximum an attention has collapsed on a few entries (SPEC section 2, known weakness)."""


def run_stage(job: StageJob, journal: Journal, signals: Signals) -> StageResult:
    """What a finished stage came to; one that is not is begun, or goes on, first. Raises as ``StageRun.train``."""
    path = job.folder / "stage.json"
    return read_json(path, StageResult.from_dict) if path.exists() else StageRun(job, journal, signals).train()


class StageRun:
    """A stage at work: the job, the learner and where it stands."""

    def __init__(self, job: StageJob, journal: Journal, signals: Signals) -> None:
        self.job, self.journal, self.signals = job, journal, signals
        signals.hold = job.world.size > 1
        job.world.check_enough(_counts(job))
        (job.folder / BEST).parent.mkdir(parents=True, exist_ok=True)
        learner = build_learner(
            job.backbone,
            job.stage,
            start=job.start,
            num_classes=len(job.classes),
            image_size=job.preprocessing.image_size,
            seed=job.seed,
            device=job.device,
            source_from=job.source_from,
            fixed_weights=job.fixed_weights,
            compute=job.compute,
            sync_bn=job.sync_bn and job.world.size > 1,
        )
        check_last_batch(job, learner.target)
        job.world.reseed(job.seed)
        self.state = restore_state(job, learner, journal)
        self.learner = replace(
            learner, world=job.world, shared=job.world.forward_of(learner.target, learner.objective, learner.precision)
        )
        self._finite = FiniteCheck(job.device)
        self._saved_at = time.monotonic()
        if not (self.state.step or self.state.history):
            # A disk that is full shows now, and a run that is killed before its first epoch's end has where to go on.
            self._save()

    def train(self) -> StageResult:
        """Train from where it stands to the end.

        Raises:
            StoppedError: a signal came; what was done is saved.
            AFAError: a loss, gradient or weight is not finite, or a worker died; the last checkpoint is as it was.
        """
        job, state = self.job, self.state
        loader = job.train_loader()
        scalars = job.world.lead(Scalars, job.folder, done=state.epoch) or NoScalars()
        job.world.lead(write_log, job.folder / "log.txt", state.history)
        try:
            while state.epoch < job.epochs:
                self._epoch(loader, scalars)
        except StoppedError:
            self._save()
            raise
        except (RuntimeError, EOFError, ConnectionError) as error:
            # A worker's end is raised wherever the step is just then, or where the worker was being listened to:
            # there is nothing whole to save.
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            raise AFAError(
                f"{job.title}: a process that decodes images died (no memory left?); the last checkpoint is as it was; "
                "the same command goes on from it, num_workers=<fewer> takes less memory"
            ) from None
        finally:
            scalars.close()
        return self._conclude()

    def _epoch(self, loader: TrainLoader, scalars: Scalars | NoScalars) -> None:
        """Train the epoch begun to its end, score it, say so, and save."""
        state, started = self.state, time.monotonic()
        row = self._train_epoch(loader)
        self.job.world.level(self.learner.target)
        row |= self._score(row["epoch"])
        is_best = row["top1"] > max(
            (earlier["top1"] for earlier in state.history if not math.isnan(earlier["top1"])), default=-1.0
        )
        state.history.append(row)
        state.step, state.sums = 0, TrainSums(len(self.learner.objective.attention_names), self.job.device)
        state.seconds += time.monotonic() - started
        # Saved last: killed before, the epoch is done again and all this written again; after, it would be missing.
        self.journal.say(self._epoch_line(row, is_best))
        self._warn_of_collapse(row)
        self.job.world.lead(write_log, self.job.folder / "log.txt", state.history)
        scalars.write(row, self.job.splits.selected_on)
        if is_best:
            self._check_weights()
            save_best(self.job, self.learner, state)
        self._save()

    def _score(self, epoch: float) -> Row:
        """Figures of the monitored images after an epoch; not numbers where ``test_every`` passes it over."""
        if epoch % self.job.test_every and epoch < self.job.epochs:
            return dict.fromkeys(TestFigures._fields, math.nan)
        _, figures = self._predict(self.learner.target, self.job.splits.monitor)
        return figures._asdict()

    def _train_epoch(self, loader: TrainLoader) -> Row:
        """Train the rest of the epoch begun and return its figures."""
        job, state, learner = self.job, self.state, self.learner
        rate = job.stage.learning_rate * learning_rate_factor(
            state.epoch, epochs=job.epochs, schedule=job.stage.schedule, decay_factor=job.stage.decay_factor
        )
        set_learning_rate(learner.optimizer, rate)
        learner.objective.set_progress(state.epoch / job.epochs)
        where = f"{job.title} epoch {state.epoch + 1}/{job.epochs}"
        started, seen = time.monotonic(), 0
        images = len(loader.folder)
        later = images * (job.epochs - state.epoch - 1)
        with self.journal.progress(where, images, done=state.step * job.batch_size, later=later) as bar:

            def after_step(batch: Batch, step: Step) -> None:
                nonlocal seen
                state.step, seen = state.step + 1, seen + len(batch.indices)
                self._finite.look(step.figures, lambda: self._describe(batch, where, rate))
                if state.step % job.print_freq == 0 or state.step == len(loader):
                    text = f"{step.describe()}, train top-1 {state.sums.figures().top1:.2f} %"
                    bar.show(text)
                    speed = seen / (time.monotonic() - started)
                    self.journal.note(f"{where} step {state.step}/{len(loader)}: {text}, {speed:.1f} images/s")
                self._save_if_due()
                bar.update(len(batch.indices))

            train_one_epoch(learner, loader.epoch(state.epoch, start=state.step), state.sums, after_step)
            self._finite.flush()
        figures = state.sums.figures()
        names = learner.objective.attention_names
        return {
            "epoch": state.epoch + 1,
            "learning_rate": rate,
            "classification": figures.classification,
            "head_penalty": figures.head_penalty,
            "alignment": figures.alignment,
            "total": figures.total,
            "train_top1": figures.top1,
            **{f"entropy_{name}": value for name, value in zip(names, figures.entropies, strict=True)},
            "images_per_second": seen / (time.monotonic() - started) if seen else 0.0,
        }

    def _predict(self, target: FeatureNetwork, split: Split) -> tuple[Tensor, TestFigures]:
        """(N, K) logits of a split's images in the folder's order, and their figures."""
        loader = self.job.test_loader(split)
        with self.journal.progress(f"{self.job.title} testing", len(loader.indices)) as bar:
            logits, labels = predict(target, loader, bar.update)
        logits, labels = self.job.world.concatenate(logits), self.job.world.concatenate(labels)
        return logits, score(logits, labels)

    def _check_weights(self) -> None:
        """Raises AFAError rather than let weights be saved that are no numbers."""
        self._finite.flush()
        self._finite.check_weights(self.learner.target.network.state_dict(), self.job.title)

    def _save(self) -> None:
        self._check_weights()
        save_state(self.job, self.learner, self.state, self.journal.position())
        self._saved_at = time.monotonic()

    def _save_if_due(self) -> None:
        """Save between two steps, if ``checkpoint_every`` or SIGUSR1 says so."""
        number, unit = self.job.checkpoint_every.split()
        if unit == "steps":
            due = self.state.step % int(number) == 0
        else:
            due = time.monotonic() - self._saved_at >= 60 * float(number)
        requests = due, self.signals.take_save_request(), self.signals.ending
        agreed_due, asked, ending = self.job.world.largest(*requests)
        if asked or agreed_due:
            self._save()
        if asked:
            self.journal.say(f"{self.job.title}: checkpoint written at step {self.state.step} of the epoch")
        if ending:
            raise StoppedError(ending)

    def _describe(self, batch: Batch, where: str, rate: float) -> str:
        """Step, learning rate and images of a batch, for a message."""
        paths = [str(self.job.splits.train.folder.paths[index]) for index in batch.indices.tolist()]
        return f"{where} step {self.state.step}, lr {rate:g}, images {', '.join(paths)}"

    def _warn_of_collapse(self, row: Row) -> None:
        """Once a stage: an attention that has all its mass on a few entries aligns nothing else."""
        before = self.state.history[:-1]
        for name in (name for name in row if name.startswith("entropy_")):
            if row[name] < ENTROPY_FLOOR and not any(earlier[name] < ENTROPY_FLOOR for earlier in before):
                self.journal.say(
                    f"{self.job.title}: attention {name.removeprefix('entropy_')} has collapsed: "
                    f"entropy {row[name]:.3f} of its maximum (docs: README, Results)"
                )

    def _epoch_line(self, row: Row, is_best: bool) -> str:
        scored = f"{self.job.splits.selected_on} top-1 {row['top1']:.2f} %{' (best)' if is_best else ''}, "
        return (
            f"{self.job.title} epoch {row['epoch']}/{self.job.epochs}: classification {row['classification']:.3f}, "
            f"alignment {row['alignment']:.4g}, train top-1 {row['train_top1']:.2f} %, "
            f"{'' if math.isnan(row['top1']) else scored}"
            f"{row['images_per_second']:.0f} images/s"
        )

    def _conclude(self) -> StageResult:
        """Score both kept checkpoints on the test images as a user would: read from their files, without attention."""
        job, state = self.job, self.state
        scores = {}
        for name in (LAST, BEST):
            path = job.folder / name
            checkpoint = load_checkpoint(path)
            target = build_target(job.backbone, checkpoint, path, job.classes).to(job.device)
            logits, figures = self._predict(target, job.splits.test)
            scores[name] = Score(checkpoint.epoch, checkpoint.top1, figures.loss, figures.top1, figures.top5)
        folder = job.splits.test.folder
        labels = torch.tensor(folder.labels)
        job.world.lead(
            write_predictions, job.folder, paths=folder.paths, labels=labels, logits=logits, classes=job.classes
        )
        result = StageResult(
            method=job.stage.label,
            seed=job.seed,
            epochs=job.epochs,
            selected_on=job.splits.selected_on,
            best=scores[BEST],
            last=scores[LAST],
            images_per_second=statistics.median(row["images_per_second"] for row in state.history),
            seconds=state.seconds,
            folder=str(job.folder),
            start=job.start.origin,
        )
        job.world.lead(write_json, job.folder / "stage.json", result.to_dict())
        return result


def _counts(job: StageJob) -> dict[str, int]:
    """What each process needs at least one of."""
    splits = {"training": job.splits.train, job.splits.selected_on: job.splits.monitor, "test": job.splits.test}
    return {"batch_size": job.batch_size, **{f"{name} images": len(split.folder) for name, split in splits.items()}}
