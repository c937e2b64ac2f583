"""The batches are the same from memory, from files, with any number of workers, and from the middle of an epoch."""

import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data.distributed import DistributedSampler

from afa.data import loaders
from afa.data.folders import ImageFolder, scan_split
from afa.data.images import load_canvases, read_image
from afa.data.loaders import Batch, TrainLoader
from afa.data.transforms import Draws, Preprocessing, augment, draw_augmentation, draw_order, normalise
from afa.errors import DataError
from tests.processes import CONTEXT

CPU = torch.device("cpu")
MODES = ["default", "improved"]


@pytest.fixture
def folder(make_split: Callable[..., Path]) -> ImageFolder:
    return scan_split(make_split(a=6, b=8, c=4))


def train_loader(
    folder: ImageFolder, mode: str = "default", *, workers: int | None = 0, seed: int = 1, **ranks: int
) -> TrainLoader:
    """Batches of 5 from files or, if ``workers`` is None, from memory."""
    preprocessing, common = Preprocessing(32, mode), {"batch_size": 5, "seed": seed, "device": CPU, **ranks}
    canvases = load_canvases(folder.paths, preprocessing.train_canvas, workers=1)[0] if workers is None else None
    return TrainLoader(folder, preprocessing, num_workers=workers or 0, canvases=canvases, **common)


def evaluation_loader(
    folder: ImageFolder, mode: str = "default", *, workers: int | None = 0, **ranks: int
) -> loaders.TestLoader:
    preprocessing, common = Preprocessing(32, mode), {"batch_size": 5, "device": CPU, **ranks}
    canvases = load_canvases(folder.paths, preprocessing.test_canvas, workers=1)[0] if workers is None else None
    return loaders.TestLoader(folder, preprocessing, num_workers=workers or 0, canvases=canvases, **common)


def same(ours: list[Batch], theirs: list[Batch]) -> bool:
    return len(ours) == len(theirs) and all(
        torch.equal(entry, other)
        for own, others in zip(ours, theirs, strict=True)
        for entry, other in zip(own, others, strict=True)
    )


@pytest.mark.parametrize(
    ("gpus", "processes", "start"), [(False, 1, "fork"), (False, 2, "fork"), (True, 1, "fork"), (True, 2, "forkserver")]
)
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are started in the default way")
def test_workers_are_not_forked_where_nccl_may_run(gpus, processes, start):
    loader = SimpleNamespace(_pinned=gpus, world_size=processes)
    assert TrainLoader._worker_context(loader).get_start_method() == start


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are started in the default way")
def test_workers_of_a_server_end_with_a_killed_run(folder, tmp_path):
    script = f"""
import multiprocessing, os, time, torch
from afa.data.folders import scan_split
from afa.data.loaders import TrainLoader
from afa.data.transforms import Preprocessing
from pathlib import Path
TrainLoader._worker_context = lambda loader: multiprocessing.get_context("forkserver")
common = dict(batch_size=5, seed=1, device=torch.device("cpu"), num_workers=2)
loader = TrainLoader(scan_split(Path({str(folder.root)!r})), Preprocessing(32), **common)
batches = loader.epoch(0)
next(batches)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
time.sleep(600)
"""
    run = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in run.stdout.readline().split()]
    assert workers
    assert all(map(is_running, workers))
    run.kill()
    run.wait()
    until = time.monotonic() + 60
    while any(map(is_running, workers)):
        assert time.monotonic() < until
        time.sleep(0.1)


def is_running(pid):
    """Whether the process exists and is not a zombie, for which a container may have no parent."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("mode", MODES)
def test_an_epoch_follows_its_order_and_draws(folder: ImageFolder, mode: str) -> None:
    loader = train_loader(folder, mode)
    batches = list(loader.epoch(2))
    assert [len(batch.images) for batch in batches] == [5, 5, 5, 3]
    assert len(loader) == 4
    order = draw_order(1, 2, 18)
    assert torch.equal(torch.cat([batch.indices for batch in batches]), order)
    draws = draw_augmentation(1, 2, 18, loader.preprocessing)
    for batch in batches:
        for image, label, index in zip(batch.images, batch.labels, batch.indices.tolist(), strict=True):
            assert label == folder.labels[index]
            canvas = torch.from_numpy(loader.preprocessing.train_canvas(read_image(folder.paths[index])))[None]
            own = Draws(*(table[index : index + 1] for table in draws))
            assert torch.equal(image, normalise(augment(canvas, *own, size=32))[0])
    assert (batches[0].images.dtype, batches[0].labels.dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize("mode", MODES)
def test_workers_and_memory_change_nothing(folder: ImageFolder, mode: str) -> None:
    expected = list(train_loader(folder, mode).epoch(1))
    for workers in (None, 1, 2):
        assert same(list(train_loader(folder, mode, workers=workers).epoch(1)), expected), workers


@pytest.mark.parametrize("workers", [None, 0, 2])
def test_an_epoch_resumed_in_the_middle_continues_identically(folder: ImageFolder, workers: int | None) -> None:
    complete = list(train_loader(folder).epoch(3))
    loader = train_loader(folder, workers=workers)
    for start in (0, 2, 4):
        assert same(list(loader.epoch(3, start=start)), complete[start:])


def test_epochs_and_seeds_differ(folder: ImageFolder) -> None:
    first = list(train_loader(folder).epoch(0))
    assert not same(first, list(train_loader(folder).epoch(1)))
    assert not same(first, list(train_loader(folder, seed=2).epoch(0)))


@pytest.mark.parametrize("workers", [None, 0, 1])
def test_the_global_random_state_does_not_change(folder: ImageFolder, workers: int | None) -> None:
    train, test = train_loader(folder, workers=workers), evaluation_loader(folder, "improved", workers=workers)
    before: Tensor = torch.get_rng_state()
    list(train.epoch(0))
    list(test)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("workers", [None, 0, 2])
def test_the_test_set_is_complete_and_in_order(folder: ImageFolder, mode: str, workers: int | None) -> None:
    loader = evaluation_loader(folder, mode, workers=workers)
    batches = list(loader)
    views = {"default": 1, "improved": 10}[mode]
    assert len(loader) == len(batches) == 4
    assert [len(batch.views) for batch in batches] == [count * views for count in (5, 5, 5, 3)]
    assert {batch.views_per_image for batch in batches} == {views}
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(18))
    assert torch.cat([batch.labels for batch in batches]).tolist() == list(folder.labels)
    centre = torch.cat([batch.views for batch in batches]).unflatten(0, (18, views))[:, 4 if views == 10 else 0]
    canvases = np.stack([loader.preprocessing.test_canvas(read_image(path))[-1] for path in folder.paths])
    assert torch.equal(centre, normalise(torch.from_numpy(canvases).permute(0, 3, 1, 2)))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_is_reported_in_the_main_process(folder: ImageFolder, workers: int) -> None:
    folder.paths[7].write_text("<html>")
    line = f"{folder.paths[7]}: not an image: begins with b'<html>'"
    for batches in (
        train_loader(folder, workers=workers).epoch(0),
        iter(evaluation_loader(folder, workers=workers)),
    ):
        with pytest.raises(DataError) as caught:
            list(batches)
        assert caught.value.lines == [line]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not name the sender of a signal")
@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_worker_ends_with_its_parent_and_not_with_its_group(folder, monkeypatch, method) -> None:
    context = CONTEXT if method == "forkserver" else multiprocessing.get_context(method)
    monkeypatch.setattr(TrainLoader, "_worker_context", lambda loader: context)

    def start() -> tuple[Iterator[Batch], multiprocessing.process.BaseProcess]:
        others, batches = multiprocessing.active_children(), train_loader(folder, workers=1).epoch(0)
        next(batches)
        (worker,) = (child for child in multiprocessing.active_children() if child not in others)
        return batches, worker

    batches, worker = start()
    subprocess.run([sys.executable, "-c", f"import os; os.kill({worker.pid}, 15)"], check=True)
    assert len(list(batches)) == 3
    batches, worker = start()
    worker.terminate()  # as Python does at the exit
    worker.join(60)
    assert worker.exitcode == 0


def test_canvases_of_another_folder_are_refused(folder: ImageFolder) -> None:
    common = {"batch_size": 5, "seed": 1, "device": CPU, "num_workers": 0}
    with pytest.raises(ValueError, match="3 canvases for 18 images"):
        TrainLoader(folder, Preprocessing(32), canvases=np.zeros((3, 37, 37, 3), np.uint8), **common)


@pytest.mark.parametrize("workers", [None, 0])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
def test_ranks_share_each_batch_as_with_a_distributed_sampler(
    folder: ImageFolder, world_size: int, workers: int | None
) -> None:
    """18 images in batches of 5; the last batch has 3, so that 7 ranks repeat its images."""
    ranks = [train_loader(folder, workers=workers, rank=rank, world_size=world_size) for rank in range(world_size)]
    batches = train_loader(folder).epoch(2, start=1)
    for batch, *shards in zip(batches, *(loader.epoch(2, start=1) for loader in ranks), strict=True):
        samplers = [DistributedSampler(batch.indices, world_size, rank, shuffle=False) for rank in range(world_size)]
        assert [len(shard.images) for shard in shards] == [len(sampler) for sampler in samplers]
        sampled = torch.cat([batch.indices[list(sampler)] for sampler in samplers])
        assert torch.equal(torch.cat([shard.indices for shard in shards]).sort().values, sampled.sort().values)
        count = len(batch.indices)
        for entry, expected in zip(map(torch.cat, zip(*shards, strict=True)), batch, strict=True):
            assert torch.equal(entry[:count], expected)  # contiguous shards, in the order of the batch
            assert torch.equal(entry[count:], expected[torch.arange(len(entry) - count) % count])


@pytest.mark.parametrize("world_size", [1, 2, 5, 20])
def test_each_test_image_belongs_to_one_rank(folder: ImageFolder, world_size: int) -> None:
    """Contiguous slices; of 20 ranks, two have no image."""
    ranks = [evaluation_loader(folder, rank=rank, world_size=world_size) for rank in range(world_size)]
    batches = [batch for loader in ranks for batch in loader]
    assert len(batches) == sum(len(loader) for loader in ranks)
    assert [index for batch in batches for index in batch.indices.tolist()] == list(range(18))
    expected = torch.cat([batch.views for batch in evaluation_loader(folder)])
    assert torch.equal(torch.cat([batch.views for batch in batches]), expected)
