"""Arguments -> settings -> run. torch is imported only once the settings are known to be good."""

import argparse
import os
import platform
import shlex
import signal
import sys
from collections.abc import Sequence
from importlib import metadata

import afa
from afa.config.grid import Grid
from afa.config.hocon import load_config
from afa.config.launch import refuse_several, said_once
from afa.config.task_words import is_setting, load_task, task_name
from afa.config.tasks import TASKS
from afa.errors import AFAError, ConfigError

_EPILOG = """\
with a CONFIG, a HOCON file:
  python main.py hocon_config/demo/afa.hocon
  python main.py hocon_config/First_stage_AST/resnet101_stanford_dogs_120.hocon target_data_dir=/data
  python main.py hocon_config/Second_stage_ACT/resnet101_Stanford_dogs_120.hocon target_data_dir=/data
  python main.py hocon_config/val/resnet101_Stanford_dogs_120.hocon target_data_dir=/data pre_trained_path=best.pth
  python main.py hocon_config/paper/table_4.hocon target_data_dir=/data
  python main.py hocon_config/paper/table_4.hocon target_data_dir=/data mode=report

without one:
{tasks}

A run writes to <outpath>/<run name>/. The same command again goes on with a run that was
cut short, and does nothing if it is finished. The keys of a CONFIG are explained in
README.md, those of the rest in docs/your-own-data.md.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 the run failed, 2 the settings are wrong."""
    words = _parser().parse_args(arguments).words
    try:
        if is_setting(words[0]):
            with said_once():
                refuse_several("mode")
            task, settings = load_task(words)
            task.run(settings)
            return 0
        return _run_config(words[0], words[1:])
    except AFAError as error:
        if error.lines:
            print("\n".join(error.lines), file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:  # the reader of the output is gone, ``head`` for one
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it ends
        return 128 + signal.SIGPIPE
    except OSError as error:  # a full disk, a folder that is gone: files written beside the checkpoints
        place = f"{error.filename}: " if error.filename else ""
        what_next = "" if is_setting(words[0]) else "; the same command goes on from the last checkpoint"
        print(f"{place}{error.strerror or error}{what_next}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command begins again", file=sys.stderr)
        return 130


def _run_config(file: str, overrides: Sequence[str]) -> int:
    """Do what a config file says; returns the exit status."""
    with said_once():
        name = task_name(overrides)
        if name in TASKS:
            raise ConfigError(f"command line: {name} takes no CONFIG; leave {file} out")
        config = load_config(file, overrides, check_files=True)
        if isinstance(config, Grid) or config.run.dry_run or any(stage.search_alpha for stage in config.stages):
            refuse_several("a grid, a search or a dry run")
    if isinstance(config, Grid):
        from afa.grid.command import do_grid

        return do_grid(config)
    from afa.grid.search import run

    run(config, command=shlex.join(["python", "main.py", file, *overrides]))
    return 0


def _parser() -> argparse.ArgumentParser:
    tasks = "\n".join(f"  python main.py {task.example}\n      {task.summary}" for task in TASKS.values())
    parser = argparse.ArgumentParser(
        prog="main.py",
        usage="%(prog)s [-h] [--version] [CONFIG] [key=value ...]",
        description="Attentive feature alignment (AFA): transfer a pre-trained network to a small image data set.",
        epilog=_EPILOG.format(tasks=tasks),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    parser.add_argument(
        "words",
        metavar="CONFIG key=value",
        nargs="+",
        help="a HOCON file, for example one of hocon_config/, and settings that replace the file's",
    )
    return parser


def _version() -> str:
    """Ours and those that a result depends on, read without importing them."""
    parts = [f"AFA {afa.__version__}", f"Python {platform.python_version()}"]
    for package in ("torch", "torchvision"):
        try:
            parts.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            parts.append(f"{package} is not installed")
    return ", ".join(parts)
