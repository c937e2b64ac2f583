"""Thousands of damaged files: checkpoints, configs, images, JSON, each read or refused in one clean line.

    python tests/campaigns/mutations.py [--share 1.0] [--seed 1] [--out runs/campaigns]

Anything else, an exception that is not the program's own or a message of several lines, is a
failure, and the exit status 1. ``--share 0.1`` tries a tenth.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from afa.command_line import main as run_program  # noqa: E402
from afa.commands.fixed_weights import load_layer_weights  # noqa: E402
from afa.config.hocon import load_settings  # noqa: E402
from afa.data.images import read_image  # noqa: E402
from afa.errors import AFAError  # noqa: E402
from afa.files import read_json, sha256  # noqa: E402
from afa.networks.build import build_network, load_backbone  # noqa: E402
from afa.networks.weights import load_file_safely, state_dict_of  # noqa: E402
from afa.results.outcomes import StageResult  # noqa: E402
from afa.training.checkpoint import load_checkpoint  # noqa: E402
from tests.mutate import mutated_bytes, mutated_config  # noqa: E402
from tests.processes import Program  # noqa: E402
from tests.same import assert_the_same  # noqa: E402

CHANNELS = (32, 64, 96, 320)
WORDS = [
    "target_dataset=small",
    f"source_weights={ROOT / 'demo/mobilenet_v2_source_fp16.pth'}",
    "num_workers=0",
    "gpu_id=cpu",
]
CONFIG = """\
base_model_name = mobilenet_v2
reg_type = ast
image_size = 32
batch_size = 4
max_iter = 6
alpha = 1e-5
lr = 0.001
momentum = 0.9
beta = 0.01
print_freq = 1
seed = 1
checkpoint_every = "2 steps"
loss_type = cross_entropy
lr_scheduler = steplr
"""


class Campaign:
    """Outcomes of each kind of file, and the failures."""

    def __init__(self, folder: Path, *, share: float, seed: int) -> None:
        self.folder, self.share, self.seed = folder, share, seed
        self.outcomes: dict[str, Counter[str]] = {}
        self.failures: list[str] = []

    def attempt(self, kind: str, times: int, one: Callable[[random.Random], str]) -> None:
        """``one`` returns "read" or "refused in one line", or raises AFAError, which is the latter."""
        counts = self.outcomes.setdefault(kind, Counter())
        for number in range(max(int(times * self.share), 1)):
            try:
                outcome = one(random.Random(f"{self.seed} {kind} {number}"))
            except AFAError as error:
                clean = all(line and len(line.splitlines()) == 1 for line in error.lines)
                outcome = "refused in one line" if clean else "failure"
                if not clean:
                    self.failures.append(f"{kind} {number}: {error.lines}")
            except Exception as error:  # what the campaign is looking for
                outcome = "failure"
                self.failures.append(f"{kind} {number}: {error!r}")
            counts[outcome] += 1
        print(f"{kind}: {dict(counts)}", flush=True)

    def table(self) -> str:
        """Markdown."""
        columns = ("read", "refused in one line", "failure")
        lines = [f"| file | tried | {' | '.join(columns)} |", "|---|---|---|---|---|"]
        for kind, counts in self.outcomes.items():
            lines.append(f"| {kind} | {counts.total()} | {' | '.join(str(counts[name]) for name in columns)} |")
        return "\n".join([*lines, "", *self.failures]) + "\n"


def small_data(root: Path) -> list[str]:
    """Three classes, four training and two test images each; the word that names them."""
    for split, count in (("train", 4), ("test", 2)):
        for name in ("bag", "sandal", "trouser"):
            target = root / "small" / split / name
            target.mkdir(parents=True)
            for image in sorted((ROOT / "demo/fashion_mnist_20shot" / split / name).iterdir())[:count]:
                shutil.copy(image, target)
    return [f"target_data_dir={root}", *WORDS]


def checkpoints(campaign: Campaign, words: list[str]) -> None:
    """A finished run's own files: with their digests, without, and as source weights."""
    config = campaign.folder / "whole.hocon"
    config.write_text(CONFIG)
    outpath = campaign.folder / "runs"
    command = [str(config), *words, f"outpath={outpath}", "exp_id=whole"]
    assert run_program(command) == 0
    whole = outpath / "whole"
    kept = (whole / "check_point/last.pth").read_bytes()

    def listed(chance: random.Random) -> str:
        path = campaign.folder / "listed/last.pth"
        path.write_bytes(mutated_bytes(kept, chance))
        if path.read_bytes() != kept:
            load_checkpoint(path)
            raise ValueError("an altered file was read")
        return "read"

    def unlisted(chance: random.Random) -> str:
        path = campaign.folder / "last.pth"
        # The values are nearly all of the file and any of them is good: mutate what describes them.
        place = chance.choice((0, len(kept) - 60_000))
        path.write_bytes(kept[:place] + mutated_bytes(kept[place : place + 60_000], chance) + kept[place + 60_000 :])
        load_checkpoint(path)
        return "read"

    (campaign.folder / "listed").mkdir()
    shutil.copy(whole / "check_point/SHA256SUMS", campaign.folder / "listed")
    campaign.attempt("last.pth with its SHA-256", 300, listed)
    campaign.attempt("last.pth without", 1500, unlisted)

    def resumed(chance: random.Random) -> str:
        """Run on from a damaged last.pth to the end of an undisturbed run."""
        run = outpath / "resumed"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(whole, run)
        for name in ("result.json", "stage.json"):
            (run / name).unlink()
        last = run / "check_point/last.pth"
        last.write_bytes(mutated_bytes(kept, chance))
        if sha256(last) == sha256(whole / "check_point/last.pth"):
            return "read"
        if run_program([str(config), *words, f"outpath={outpath}", "exp_id=resumed"]):
            raise ValueError("did not go on from previous.pth")
        assert_the_same(run, whole)
        return "read"

    campaign.attempt("last.pth of a run that goes on", 30, resumed)


def source_weights(campaign: Campaign) -> None:
    """Small files in each format into a network that they fit, or nearly."""
    from safetensors.torch import save_file

    network = build_network("shufflenet_v2_x0_5", 3)
    state = {name: value.half() for name, value in network.state_dict().items()}
    for kind in ("new .pth", "old .pth", ".safetensors"):
        path = campaign.folder / f"source{'.safetensors' if 'safe' in kind else '.pth'}"
        if "safe" in kind:
            save_file(state, path)
        else:
            torch.save(state, path, _use_new_zipfile_serialization="new" in kind)
        whole = path.read_bytes()

        def one(chance: random.Random, path: Path = path, whole: bytes = whole) -> str:
            start = chance.choice((0, max(len(whole) - 8000, 0)))
            path.write_bytes(whole[:start] + mutated_bytes(whole[start : start + 8000], chance) + whole[start + 8000 :])
            load_backbone(network, state_dict_of(load_file_safely(path), path), path)
            return "read"

        campaign.attempt(f"source weights, {kind}", 1000, one)


def configs(campaign: Campaign, words: list[str]) -> None:
    """All configs of the repository read, and a small one run."""
    tree = Path(shutil.copytree(ROOT / "hocon_config", campaign.folder / "hocon_config"))
    files = {path: path.read_text() for path in sorted(tree.rglob("*.hocon"))}

    def read(chance: random.Random) -> str:
        file = chance.choice(list(files))
        try:
            file.write_text(mutated_config(files[file], chance), encoding="utf-8")
            load_settings(file)
        finally:
            file.write_text(files[file])
        return "read"

    campaign.attempt("HOCON, read", 3000, read)

    def run(chance: random.Random) -> str:
        folder = Path(tempfile.mkdtemp(dir=campaign.folder))
        file = folder / "c.hocon"
        file.write_text(mutated_config(CONFIG, chance), encoding="utf-8")
        load_settings(file, [*words, f"outpath={folder}", "exp_id=run"])
        program = Program([str(file), *words, f"outpath={folder}", "exp_id=run"], folder)
        status = first_outcome(program, folder / "run/experiment.log")
        if status > 0 and len(program.errors.splitlines()) != 1:
            raise ValueError(program.errors)
        return "refused in one line" if status > 0 else "read"

    campaign.attempt("HOCON, run for a step", 300, run)


def first_outcome(program: Program, log: Path) -> int:
    """The exit status, or 0 from the first step on that the log tells, or when a minute has gone without a failure."""
    until = time.monotonic() + 60
    while time.monotonic() < until and program.status is None:
        if log.exists() and " step " in log.read_text():
            break
        time.sleep(0.02)
    else:
        return program.status or 0
    program.end()
    return 0


def images(campaign: Campaign) -> None:
    """Photographs of noise in each format that is read."""
    pixels = np.random.default_rng(campaign.seed).integers(0, 256, (24, 32, 3), np.uint8)
    picture = Image.fromarray(pixels)
    for name in ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM"):
        path = campaign.folder / "image"
        picture.save(path, name)
        whole = path.read_bytes()

        def one(chance: random.Random, path: Path = path, whole: bytes = whole) -> str:
            path.write_bytes(mutated_bytes(whole, chance))
            assert read_image(path).mode == "RGB"
            return "read"

        campaign.attempt(f"image, {name}", 1000, one)


def json_files(campaign: Campaign) -> None:
    """DELTA's channel weights, and a stage's result."""
    path = campaign.folder / "weights.json"
    whole = {
        "channel weights": json.dumps([[0.5] * count for count in CHANNELS]),
        "stage.json": (campaign.folder / "runs/whole/stage.json").read_text(),
    }
    readers: dict[str, Callable[[], object]] = {
        "channel weights": lambda: load_layer_weights(path, CHANNELS),
        "stage.json": lambda: read_json(path, StageResult.from_dict),
    }
    for kind, read in readers.items():

        def one(chance: random.Random, kind: str = kind, read: Callable[[], object] = read) -> str:
            path.write_bytes(mutated_bytes(whole[kind].encode(), chance))
            read()
            return "read"

        campaign.attempt(f"JSON, {kind}", 1000, one)


def parts(campaign: Campaign) -> Iterator[Callable[[], None]]:
    """The kinds of files in order; the later ones use what the first made."""
    words = small_data(campaign.folder / "data")
    yield lambda: checkpoints(campaign, words)
    yield lambda: source_weights(campaign)
    yield lambda: configs(campaign, words)
    yield lambda: images(campaign)
    yield lambda: json_files(campaign)


def main() -> int:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "runs/campaigns")
    words = parser.parse_args()
    folder = words.out.resolve() / time.strftime("mutations-%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    torch.set_num_threads(1)
    campaign = Campaign(folder, share=words.share, seed=words.seed)
    for part in parts(campaign):
        part()
    text = campaign.table()
    (folder / "mutations.md").write_text(text)
    print(text)
    return 1 if campaign.failures else 0


if __name__ == "__main__":
    sys.exit(main())
