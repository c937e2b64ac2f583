"""Runs that were not disturbed, and one that died, shared by all tests of this folder."""

import shutil
from pathlib import Path

import pytest

from afa.command_line import main
from afa.training import loop
from tests.reliability.runs import ROOT, commands


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """As ``data_dir``, with enough images that an epoch takes half a second."""
    root = tmp_path_factory.mktemp("more_data")
    for split, count in {"train": 8, "test": 1}.items():
        for name in ("bag", "sandal", "trouser"):
            folder = root / "tiny" / split / name
            folder.mkdir(parents=True)
            for path in sorted((ROOT / "demo" / "fashion_mnist_20shot" / split / name).iterdir())[:count]:
                shutil.copy(path, folder)
    return root


@pytest.fixture(scope="session")
def words(data) -> list[str]:
    """Two epochs of six steps a stage."""
    return [
        f"target_data_dir={data}",
        "target_dataset=tiny",
        f"source_weights={ROOT / 'demo' / 'mobilenet_v2_source_fp16.pth'}",
        "image_size=32",
        "batch_size=4",
        "max_iter=12",
        "alpha=1e-5",
        "lr=0.001",
        "gpu_id=cpu",
        "num_workers=0",
        "print_freq=1",
        "exp_id=run",
    ]


@pytest.fixture(scope="session")
def undisturbed(words, tmp_path_factory) -> dict[str, Path]:
    """Runs of one stage and of two without any disturbance."""
    runs = {}
    for name in ("one", "two"):
        outpath = tmp_path_factory.mktemp(f"undisturbed_{name}")
        assert main(commands(words, outpath)[name]) == 0
        runs[name] = outpath / "run"
    return runs


@pytest.fixture(scope="session")
def died(words, tmp_path_factory) -> Path:
    """``outpath`` of a run that died after step 5 of the second epoch, with checkpoints of steps 2 and 4 of it."""
    outpath, after_step = tmp_path_factory.mktemp("died"), loop.StepObserver.after_step

    def die(observer: loop.StepObserver, *step: object) -> None:
        if observer.state.epoch == 1 and observer.state.step == 4:
            raise KeyboardInterrupt
        after_step(observer, *step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.StepObserver, "after_step", die)
        assert main([*commands(words, outpath)["one"], "checkpoint_every=2 steps"]) == 130
    return outpath


@pytest.fixture
def cut(died, tmp_path) -> Path:
    """A copy of ``died``."""
    return shutil.copytree(died, tmp_path / "cut")
