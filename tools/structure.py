"""Measure the structure of the code: its size, its functions, and the depth of the call stack.

    python tools/structure.py [DIR ...]              # measurements of one or more checkouts, side by side
    python tools/structure.py --frames [--root DIR]  # call stack from the command to the arithmetic of eq. 6

DIR is an ``afa`` folder or a folder that contains one; the default is this repository. How the numbers are counted:

- lines: all lines of ``*.py`` files, blank lines and comments included; non-empty files: those with at least one line.
- functions: every ``def``, methods and nested functions included.
- private functions: those whose name starts with one underscore.
- used once: private functions whose name is read exactly once, as a name (``_f``) or as an attribute (``self._f``).
  A name belongs to the file that defines it: reads in other files count only where these define no such function.
- function length: from the ``def`` line (decorators excluded) to the last line, docstring included.
- frames: Python frames of ``main.py`` and ``afa/`` during the first training step. The ``<module>`` frame of
  ``main.py`` and ``_SquaredDistance.forward``, the arithmetic itself, are not counted. Python 3.11 runs a
  comprehension in a frame of its own, later versions do not.
"""

import argparse
import ast
import os
import runpy
import shutil
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
LONG_FILE = 300
CLASSES = ("bag", "sandal", "trouser")
IMAGES_PER_CLASS = 2


def measure(folder: Path) -> dict[str, float]:
    """Measurements by name of the Python files below ``folder``."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.py"))}
    lengths: list[int] = []
    private: list[tuple[Path, str]] = []
    reads: dict[Path, Counter[str]] = {}
    for path, text in texts.items():
        nodes = list(ast.walk(ast.parse(text)))
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        lengths += [(node.end_lineno or node.lineno) - node.lineno + 1 for node in functions]
        private += [(path, node.name) for node in functions if node.name[0] == "_" and node.name[:2] != "__"]
        reads[path] = Counter(
            node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        )
        reads[path].update(node.attr for node in nodes if isinstance(node, ast.Attribute))
    defined = set(private)

    def uses(path: Path, name: str) -> int:
        return sum(count[name] for other, count in reads.items() if other == path or (other, name) not in defined)

    line_counts = [len(text.splitlines()) for text in texts.values()]
    lengths.sort()
    return {
        "lines": sum(line_counts),
        "non-empty files": sum(count > 0 for count in line_counts),
        f"files over {LONG_FILE} lines": sum(count > LONG_FILE for count in line_counts),
        "functions": len(lengths),
        "private functions": len(private),
        "private functions used once": sum(uses(path, name) == 1 for path, name in private),
        "function length, median": statistics.median(lengths),
        "function length, 90th percentile": lengths[int(0.9 * len(lengths))],
        "function length, longest": lengths[-1],
    }


def print_measurements(folders: list[Path]) -> None:
    """A row for each measurement, a column for each folder."""
    columns = [measure(folder / "afa" if (folder / "afa").is_dir() else folder) for folder in folders]
    widths = [max(len(str(folder)), 8) for folder in folders]
    print(" " * 34, *(f"{folder!s:>{width}}" for folder, width in zip(folders, widths, strict=True)))
    for name in columns[0]:
        print(f"{name:34}", *(f"{column[name]:>{width}g}" for column, width in zip(columns, widths, strict=True)))


def training_stack(root: Path) -> list[str]:
    """``path: function`` of each counted frame, outermost first, of the first step of a one-epoch AST training.

    The code is that of the checkout ``root``; the images and the source weights are those of its demo.
    """
    os.chdir(root)
    sys.path.insert(0, str(root))
    import torch

    from afa.method import alignment

    torch.set_num_threads(1)
    if root not in Path(alignment.__file__).resolve().parents:
        raise SystemExit(f"afa was imported from {alignment.__file__}, not from {root}")
    forward: Callable[..., Any] = alignment._SquaredDistance.forward
    stack: list[str] = []

    def recording_forward(*arguments: Any) -> Any:
        frame = None if stack else sys._getframe(1)
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            path = path.relative_to(root) if path.is_relative_to(root) else path
            if path.parts[0] == "afa" or (path == Path("main.py") and frame.f_code.co_name != "<module>"):
                stack.insert(0, f"{path}: {frame.f_code.co_qualname}")
            frame = frame.f_back
        return forward(*arguments)

    alignment._SquaredDistance.forward = staticmethod(recording_forward)  # type: ignore[method-assign, assignment]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        demo = root / "demo"
        for split in ("train", "test"):
            for label in CLASSES:
                target = folder / "data" / "few" / split / label
                target.mkdir(parents=True)
                for image in sorted((demo / "fashion_mnist_20shot" / split / label).iterdir())[:IMAGES_PER_CLASS]:
                    shutil.copy(image, target)
        config = folder / "ast.hocon"
        config.write_text("base_model_name = mobilenet_v2\nreg_type = ast\nalpha = 0.01\n")
        settings = {
            "target_data_dir": folder / "data",
            "target_dataset": "few",
            "outpath": folder / "runs",
            "source_weights": demo / "mobilenet_v2_source_fp16.pth",
            "exp_id": "run",
            "image_size": 32,
            "batch_size": 2,
            "epochs": 1,
            "gpu_id": "cpu",
            "num_workers": 0,
            "quiet": "true",
            "report": "false",
        }
        sys.argv = ["main.py", str(config), *(f"{key}={value}" for key, value in settings.items())]
        try:
            runpy.run_path(str(root / "main.py"), run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise
    return stack


def main() -> None:
    """Print what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", metavar="DIR", nargs="*", type=Path, default=[REPOSITORY])
    parser.add_argument("--frames", action="store_true", help="print the call stack instead of the measurements")
    parser.add_argument("--root", metavar="DIR", type=Path, default=REPOSITORY, help="checkout that --frames runs")
    arguments = parser.parse_args()
    if not arguments.frames:
        print_measurements(arguments.folders)
        return
    stack = training_stack(arguments.root.resolve())
    print("\n".join(stack))
    print(f"{len(stack)} frames from the command to the arithmetic of eq. 6")


if __name__ == "__main__":
    main()
