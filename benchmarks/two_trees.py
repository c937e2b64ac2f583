"""Compare the costs of commands in this tree with those in another tree of the project, such as an earlier commit.

    git worktree add ../before <commit>
    python benchmarks/two_trees.py ../before [--repeats 5] [--only help evaluation]

Each command runs ``main.py`` of its own tree in a new process, in turn A B A B ...; the costs include the start,
but no report page. A ratio above 1 means that this tree is slower.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
from images import make_images
from timing import cost, in_turn, median, ratio, write
from torchvision.models import resnet101

from afa.results.outcomes import format_table

ROOT = Path(__file__).parents[1]
CONFIG = "hocon_config/demo/l2.hocon"
AST = (CONFIG, "reg_type=ast", "weight_decay=0")  # with the released losses, which both trees have
SMALL = ("image_size=32", "batch_size=40", "max_iter=5")
PHOTOGRAPHS = ("target_data_dir={data}", "target_dataset=photographs", "lr=0.0001")
STEPS = (*PHOTOGRAPHS, "image_size=224", "alpha=0.00001", "epochs=1")
MOBILENET = (*AST, *STEPS, "batch_size=16")
RESNET = (*AST, *STEPS, "target_dataset=few", "base_model_name=resnet101", "source_weights={resnet101}", "batch_size=8")
ROWS: dict[str, tuple[str, ...]] = {
    "help": ("--help",),
    "a config error": (CONFIG, "batch_size=x"),
    "5 steps, 32 pixels": (*AST, "alpha=0.00001", *SMALL),
    "8 steps, MobileNetV2, AST": MOBILENET,
    "8 steps, MobileNetV2, ACT": (*MOBILENET, "reg_type=act"),
    "8 steps, MobileNetV2, AST, bf16": (*MOBILENET, "precision=bf16"),
    "8 steps, MobileNetV2, ACT, bf16": (*MOBILENET, "reg_type=act", "precision=bf16"),
    "4 steps, ResNet-101, AST": RESNET,
    "4 steps, ResNet-101, ACT": (*RESNET, "reg_type=act"),
    "4 steps, ResNet-101, AST, bf16": (*RESNET, "precision=bf16"),
    "4 steps, ResNet-101, ACT, bf16": (*RESNET, "reg_type=act", "precision=bf16"),
    "input, 10 epochs of 128 JPEG files": (
        *(CONFIG, "reg_type=l2_fe", *PHOTOGRAPHS, "image_size=32", "batch_size=32"),
        *("epochs=10", "test_every=10", "cache=none"),
    ),
    "evaluation, 1,000 images": (CONFIG, "mode=eval", "pre_trained_path={checkpoint}", "image_size=32"),
    "channel weights of DELTA": (CONFIG, "reg_type=delta", "alpha=0.00001", *SMALL),
}
"""Name -> words of the command; ``{name}`` is a file that this script makes."""


def prepare(folder: Path, commands: str) -> dict[str, Path]:
    """Make those files that the commands name, and return the paths of all."""
    files = {
        "data": folder / "data",
        "resnet101": folder / "resnet101.pth",
        "checkpoint": folder / "runs/made",
    }
    if "{data}" in commands:
        for name, count in (("photographs", 128), ("few", 32)):
            make_images(files["data"] / name / "train", count)
            make_images(files["data"] / name / "test", 4)
    if "{resnet101}" in commands:
        torch.save(resnet101().state_dict(), files["resnet101"])
    if "{checkpoint}" in commands:
        run(ROOT, folder, [CONFIG, *SMALL, "exp_id=made"])
    return files


def run(tree: Path, folder: Path, words: list[str], fails: bool = False) -> None:
    """Run ``main.py`` of a tree in a new run folder."""
    output = [] if "--help" in words else [f"outpath={folder / 'runs'}", "overwrite=true", "report=false"]
    command = [sys.executable, "main.py", *words, *output]
    environment = os.environ | {"PYTHONPATH": str(tree)}  # an installed version of the project must not be imported
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if (done.returncode != 0) != fails:
        raise SystemExit(
            f"{tree}: {' '.join(map(str, command))}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="another tree of the project")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/two_trees.json"))
    options = parser.parse_args()
    results, table = {}, []
    with tempfile.TemporaryDirectory() as folder:
        made = prepare(Path(folder), " ".join(word for name in options.only for word in ROWS[name]))
        for name in options.only:
            words = [word.format(**made) for word in ROWS[name]]
            sides = {
                side: partial(cost, partial(run, tree.resolve(), Path(folder) / side, words, name == "a config error"))
                for side, tree in (("other", options.other), ("this", ROOT))
            }
            costs = in_turn(sides, options.repeats)
            ratios = ratio(costs["this"], costs["other"])
            results[name] = {"costs": costs, "ratio": ratios}
            table.append([name, *(f"{median(costs[side]).wall:.2f}" for side in sides), *(f"{r:.3f}" for r in ratios)])
            print(f"{name}: {table[-1][1:]}", file=sys.stderr, flush=True)
    print(format_table(["command", "other s", "this s", "this / other", "(CPU s)"], table))
    write(options.json, results=results)


if __name__ == "__main__":
    main()
