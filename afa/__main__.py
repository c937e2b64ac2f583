"""The command ``afa``, or ``python -m afa``."""

import os
import sys
from pathlib import Path

from afa.machine.signals import end_on_signals


def main() -> int:
    """Run the command line on the arguments of the process and return its exit status."""
    end_on_signals()
    # A file or a pipe that is opened later would get the number of a closed stream, also in the processes of jobs=2.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    try:
        from afa.command_line import main as run_command

        return run_command()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "afa":
            raise
        root = Path(__file__).resolve().parents[1]
        wanted = root if (root / "pyproject.toml").exists() else package
        print(
            f"the package {package} is not installed for {sys.executable}; activate the environment of this program "
            f"(source .venv/bin/activate), or run: {sys.executable} -m pip install {wanted}",
            file=sys.stderr,
        )
        return 1


if __name__ == "__main__":
    sys.exit(main())
