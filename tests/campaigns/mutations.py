"""Thousands of damaged files: checkpoints, configs, images, JSON, each read or refused in one clean line.

    python tests/campaigns/mutations.py [--share 1.0] [--seed 1] [--only HOCON image] [--out runs/campaigns]

Anything else, an exception that is not the program's own, a message of several lines, a crash by a
signal or a minute without a step, is a failure, and the exit status 1. ``--share 0.1`` tries a tenth,
``--only`` the kinds of files whose name contains one of the words.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
from tests.mutate import mutated_bytes, mutated_config, mutated_content  # noqa: E402
from tests.processes import CONTEXT, PRELOADED, Program  # noqa: E402
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

    def __init__(self, folder: Path, *, share: float, seed: int, only: Sequence[str] = ("",)) -> None:
        self.folder, self.share, self.seed, self.only = folder, share, seed, only
        self.outcomes: dict[str, Counter[str]] = {}
        self.failures: list[str] = []

    def attempt(self, kind: str, times: int, one: Callable[[random.Random], str]) -> None:
        """``one`` returns "read" or "refused in one line", or raises AFAError, which is the latter."""
        if not any(word in kind for word in self.only):
            return
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
    config = campaign.folder / "undisturbed.hocon"
    config.write_text(CONFIG)
    outpath = campaign.folder / "runs"
    command = [str(config), *words, f"outpath={outpath}", "exp_id=undisturbed"]
    assert run_program(command) == 0
    undisturbed = outpath / "undisturbed"
    kept = (undisturbed / "check_point/last.pth").read_bytes()

    def listed(chance: random.Random) -> str:
        path = campaign.folder / "listed/last.pth"
        path.write_bytes(mutated_bytes(kept, chance))
        if path.read_bytes() != kept:
            load_checkpoint(path)
            raise ValueError("an altered file was read")
        return "read"

    def unlisted(chance: random.Random) -> str:
        path = campaign.folder / "last.pth"
        path.write_bytes(mutated_description(kept, chance))
        load_checkpoint(path)
        return "read"

    (campaign.folder / "listed").mkdir()
    shutil.copy(undisturbed / "check_point/SHA256SUMS", campaign.folder / "listed")
    campaign.attempt("last.pth with its SHA-256", 300, listed)
    campaign.attempt("last.pth without its SHA-256", 1500, unlisted)

    def resumed(chance: random.Random) -> str:
        """Run on from a damaged last.pth to the end of an undisturbed run."""
        run = outpath / "resumed"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(undisturbed, run)
        for name in ("result.json", "stage.json"):
            (run / name).unlink()
        last = run / "check_point/last.pth"
        last.write_bytes(mutated_bytes(kept, chance))
        if sha256(last) == sha256(undisturbed / "check_point/last.pth"):
            return "read"
        if run_program([str(config), *words, f"outpath={outpath}", "exp_id=resumed"]):
            raise ValueError("did not go on from previous.pth")
        assert_the_same(run, undisturbed)
        return "read"

    campaign.attempt("last.pth of a run that is resumed", 30, resumed)


def uses_of_a_checkpoint(campaign: Campaign, words: list[str]) -> None:
    """Every command that reads a checkpoint, with one whose bytes or entries were changed, and without its digest."""
    outpath, work = campaign.folder / "runs", campaign.folder / "work"
    folder = outpath / "undisturbed/check_point"
    image = next((campaign.folder / "data").rglob("*.png"))
    commands = {
        "predict": ["mode=predict", "pre_trained_path=best.pth", f"input={image}", "output=out", "gpu_id=cpu"],
        "export": ["mode=export", "pre_trained_path=best.pth", "format=safetensors", "output=out"],
        "visualize": ["mode=visualize", "pre_trained_path=best.pth", f"input={image}", "output=out", "gpu_id=cpu"],
        "eval": [
            str(campaign.folder / "undisturbed.hocon"),
            *words,
            "mode=eval",
            "pre_trained_path=best.pth",
            "exp_id=eval",
        ],
        "resume": [str(campaign.folder / "undisturbed.hocon"), *words, "exp_id=resumed"],
    }
    for name, command in commands.items():

        def use(chance: random.Random, name: str = name, command: Sequence[str] = command) -> str:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            path, run = work / "best.pth", work / "resumed"
            if name == "resume":
                shutil.copytree(outpath / "undisturbed", run)
                for left in ("result.json", "stage.json", "check_point/SHA256SUMS", "check_point/previous.pth"):
                    (run / left).unlink()
                path = run / "check_point/last.pth"
            content = (folder / path.name).read_bytes()
            if chance.random() < 0.3:
                path.write_bytes(mutated_description(content, chance))
            else:
                content = torch.load(folder / path.name, weights_only=True)
                mutated_content(content, chance)
                torch.save(content, path)
            places = [word.replace("=best.pth", f"={path}").replace("=out", f"={work / 'out'}") for word in command]
            program = Program([*places, f"outpath={work}"] if name in ("eval", "resume") else places, work)
            return outcome_of(program, program.wait())

        campaign.attempt(f"checkpoint without its SHA-256, {name}", 50, use)


def outcome_of(program: Program, status: int) -> str:
    """The outcome of a program that has ended; raises ValueError if it was killed or printed several lines."""
    if status < 0 or (status > 0 and len(program.errors.splitlines()) != 1):
        raise ValueError(f"exit status {status}: {program.errors}")
    return "refused in one line" if status > 0 else "read"


def mutated_description(content: bytes, chance: random.Random) -> bytes:
    """A mutated .pth file. The values are nearly all of it and any of them is good: what describes them is changed."""
    offset = chance.choice((0, len(content) - 60_000))
    return content[:offset] + mutated_bytes(content[offset : offset + 60_000], chance) + content[offset + 60_000 :]


def source_weights(campaign: Campaign) -> None:
    """Small files in each format into a network that they fit, or nearly."""
    from safetensors.torch import save_file

    network = build_network("shufflenet_v2_x0_5", 3)
    state = {name: v.half() if v.is_floating_point() else v for name, v in network.state_dict().items()}
    for kind in ("new .pth", "old .pth", ".safetensors"):
        path = campaign.folder / f"source{'.safetensors' if 'safe' in kind else '.pth'}"
        if "safe" in kind:
            save_file(state, path)
        else:
            torch.save(state, path, _use_new_zipfile_serialization="new" in kind)
        content = path.read_bytes()

        def one(chance: random.Random, path: Path = path, content: bytes = content) -> str:
            start = chance.choice((0, max(len(content) - 8000, 0)))
            path.write_bytes(
                content[:start] + mutated_bytes(content[start : start + 8000], chance) + content[start + 8000 :]
            )
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
        return outcome_of(program, first_outcome(program, folder / "run/experiment.log"))

    campaign.attempt("HOCON, run for one step", 300, run)


def first_outcome(program: Program, log: Path) -> int:
    """The exit status, minus the signal after a crash; 0 after the first step. A minute without one is a failure."""
    until = time.monotonic() + 60
    while time.monotonic() < until and program.status is None:
        if log.exists() and " step " in log.read_text():
            break
        time.sleep(0.02)
    else:
        if program.status is None:
            program.end()
            raise ValueError("a minute without a step")
        return program.status
    program.end()
    return 0


def images(campaign: Campaign) -> None:
    """Photographs of noise in each format that is read."""
    pixels = np.random.default_rng(campaign.seed).integers(0, 256, (24, 32, 3), np.uint8)
    picture = Image.fromarray(pixels)
    for name in ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM"):
        path = campaign.folder / "image"
        picture.save(path, name)
        content = path.read_bytes()

        def one(chance: random.Random, path: Path = path, content: bytes = content) -> str:
            path.write_bytes(mutated_bytes(content, chance))
            assert read_image(path).mode == "RGB"
            return "read"

        campaign.attempt(f"image, {name}", 1000, one)


def json_files(campaign: Campaign) -> None:
    """DELTA's channel weights, and a stage's result."""
    path = campaign.folder / "weights.json"
    content = {
        "channel weights": json.dumps([[0.5] * count for count in CHANNELS]),
        "stage.json": (campaign.folder / "runs/undisturbed/stage.json").read_text(),
    }
    readers: dict[str, Callable[[], object]] = {
        "channel weights": lambda: load_layer_weights(path, CHANNELS),
        "stage.json": lambda: read_json(path, StageResult.from_dict),
    }
    for kind, read in readers.items():

        def one(chance: random.Random, kind: str = kind, read: Callable[[], object] = read) -> str:
            path.write_bytes(mutated_bytes(content[kind].encode(), chance))
            read()
            return "read"

        campaign.attempt(f"JSON, {kind}", 1000, one)


def parts(campaign: Campaign) -> Iterator[Callable[[], None]]:
    """The kinds of files in order; the later ones use what the first made."""
    words = small_data(campaign.folder / "data")
    yield lambda: checkpoints(campaign, words)
    yield lambda: uses_of_a_checkpoint(campaign, words)
    yield lambda: source_weights(campaign)
    yield lambda: configs(campaign, words)
    yield lambda: images(campaign)
    yield lambda: json_files(campaign)


def main() -> int:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=[""])
    parser.add_argument("--out", type=Path, default=ROOT / "runs/campaigns")
    words = parser.parse_args()
    folder = words.out.resolve() / time.strftime(f"mutations-%Y%m%d-%H%M%S-{os.getpid()}")
    folder.mkdir(parents=True)
    torch.set_num_threads(1)
    CONTEXT.set_forkserver_preload([*PRELOADED, "afa.inference.predictions", "afa.report.visualization"])
    campaign = Campaign(folder, share=words.share, seed=words.seed, only=words.only)
    for part in parts(campaign):
        part()
    text = campaign.table()
    (folder / "mutations.md").write_text(text)
    print(text)
    return 1 if campaign.failures else 0


if __name__ == "__main__":
    sys.exit(main())
