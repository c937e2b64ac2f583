"""A data set, a source network and settings that make a whole run a matter of seconds."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

# Networks this small gain nothing from threads, and threads that wait for each other lose a lot.
torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "demo"
CLASSES = ("bag", "sandal", "trouser")
PER_CLASS = {"train": 4, "test": 3}


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    """Configs name the demo's files from the repository's root."""
    monkeypatch.chdir(ROOT)


@pytest.fixture(autouse=True)
def seeded():
    """Random weights and images do not depend on the tests that ran before."""
    torch.manual_seed(0)


@pytest.fixture
def convolutions_in_tf32(monkeypatch) -> list[bool]:
    """For each convolution of a batch so far, whether a GPU would round its factors to TF32."""
    seen, forward = [], nn.Conv2d.forward

    def recording_forward(self: nn.Conv2d, images: Tensor) -> Tensor:
        if len(images) > 1:  # a single image of zeros shows the sizes of the maps
            seen.append(torch.backends.cudnn.allow_tf32)
        return forward(self, images)

    monkeypatch.setattr(nn.Conv2d, "forward", recording_forward)
    return seen


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    """``<data_dir>/tiny/{train,test}/<class>/*.png``: a few of the demo's images."""
    root = tmp_path_factory.mktemp("data")
    for split, count in PER_CLASS.items():
        for name in CLASSES:
            folder = root / "tiny" / split / name
            folder.mkdir(parents=True)
            for path in sorted((DEMO / "fashion_mnist_20shot" / split / name).iterdir())[:count]:
                shutil.copy(path, folder)
    return root


@pytest.fixture(scope="session")
def words_for(data_dir) -> Callable[[Path], list[str]]:
    """Command-line words that put any config on the tiny data, below a folder: 2 epochs of 3 steps, on the CPU."""

    def build(folder: Path) -> list[str]:
        return [
            f"target_data_dir={data_dir}",
            "target_dataset=tiny",
            f"outpath={folder / 'runs'}",
            f"source_weights={DEMO / 'mobilenet_v2_source_fp16.pth'}",
            "image_size=32",
            "batch_size=4",
            "max_iter=6",
            "gpu_id=cpu",
            "num_workers=0",
            "report=false",
        ]

    return build


@pytest.fixture
def words(words_for, tmp_path) -> list[str]:
    """The same, below the test's own folder."""
    return words_for(tmp_path)


@pytest.fixture
def settings_for(words) -> Callable:
    """``settings_for(reg_type="ast", ...)``: settings of a one-stage run of MobileNetV2 on the tiny data."""
    from afa.config.hocon import load_settings

    def build(**values: object):
        extra = {"alpha": 0.01, "exp_id": "run", **values}
        return load_settings(DEMO.parent / "tests" / "tiny.hocon", [*words, *(f"{k}={v}" for k, v in extra.items())])

    return build
