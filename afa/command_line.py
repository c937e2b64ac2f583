"""Arguments -> settings -> run. torch is imported only after the settings are checked."""

import argparse
import contextlib
import platform
import shlex
import signal
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import afa
from afa.config.grid import Grid
from afa.config.hocon import load_config
from afa.config.key_help import help_text
from afa.config.tasks import TASKS, is_setting, load_task, task_name
from afa.errors import AFAError, ConfigError, resource_error
from afa.machine.launch import report_errors_once, require_single_process
from afa.machine.signals import Program, Signals, StoppedError, end_process
from afa.results.journal import discard_output, say

_RESUMES = "; the same command resumes from the last checkpoint"
_EPILOG = """\
with a CONFIG, a HOCON file:
  python main.py hocon_config/demo/afa.hocon
  python main.py hocon_config/First_stage_AST/resnet101_stanford_dogs_120.hocon target_data_dir=/data
  python main.py hocon_config/Second_stage_ACT/resnet101_Stanford_dogs_120.hocon target_data_dir=/data
  python main.py hocon_config/val/resnet101_Stanford_dogs_120.hocon target_data_dir=/data pre_trained_path=best.pth
  python main.py hocon_config/paper/table_4.hocon target_data_dir=/data
  python main.py hocon_config/paper/table_4.hocon target_data_dir=/data mode=report

without a CONFIG:
{tasks}

keys:
  python main.py help              all keys of a CONFIG
  python main.py help lr           one key
  python main.py mode=predict help keys of a command without a CONFIG

A run writes to <outpath>/<run name>/. The same command resumes an interrupted run, and does nothing if the run is
finished. Shipped configs are found from any folder, also by a short name: demo, paper/table_4.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 success, 1 the run failed, 2 the settings are wrong."""
    arguments = sys.argv[1:] if arguments is None else arguments
    is_task = bool(arguments) and is_setting(arguments[0])
    try:
        _check_no_options(arguments)
        first, *rest = _parser().parse_args(arguments).arguments
        if "help" in (first, *rest):
            say(help_text([argument for argument in (first, *rest) if argument != "help"]))
            return 0
        with report_errors_once():
            if is_task:
                require_single_process("this command")
                task, task_settings = load_task([first, *rest])
            else:
                if task_name(rest) in TASKS.keys() - {"eval"}:  # a config may also be evaluated
                    raise ConfigError(f"command line: {task_name(rest)} takes no CONFIG; remove {first}")
                config = load_config(first, rest, check_files=True)
                if isinstance(config, Grid) or config.run.dry_run or config.is_searched:
                    require_single_process("a grid, a search or a dry run")
        if is_task:
            function = task.load()
            with Signals():
                function(task_settings)
        elif isinstance(config, Grid):
            from afa.grid.runner import do_grid

            with Signals():
                return do_grid(config)
        else:
            from afa.entry import run

            with Signals():
                run(config, command=f"{_program()} {shlex.join([first, *rest])}")
        return 0
    except AFAError as error:
        return _fail(error.lines, error.exit_status)
    except KeyboardInterrupt as error:
        if not isinstance(error, StoppedError):
            error = StoppedError(signal.SIGINT)  # another name would keep the frames, and their workers, until the exit
        Program.has_reported = True
        status = _fail([f"{line}{'' if is_task else ' to resume'}" for line in error.lines], error.exit_status)
        if Program.is_running:  # Python needs seconds to free the memory of an export
            end_process(error.number, str(error))
        return status
    except BrokenPipeError:  # the reader of the output has ended, for example ``head``
        discard_output(sys.stdout)
        return 128 + signal.SIGPIPE
    except OSError as error:  # a full disk, or a folder that was removed
        path = f"{error.filename}: " if error.filename else ""
        return _fail([f"{path}{error.strerror or error}{'' if is_task else _RESUMES}"], 1)
    except (MemoryError, RuntimeError, ImportError) as error:
        if not (line := resource_error(error)):
            raise
        return _fail([f"{line}{'' if is_task else _RESUMES}"], 1)


def _fail(lines: Sequence[str], status: int) -> int:
    """Print the lines; returns the exit status."""
    if lines:
        with contextlib.suppress(BrokenPipeError):
            say("\n".join(lines), is_error=True)
    return status


def _check_no_options(arguments: Sequence[str]) -> None:
    """Raise ConfigError for ``--key value``, which other programs expect."""
    for argument in arguments:
        if argument.startswith("-") and argument not in ("-h", "--help", "--version"):
            key, _, value = argument.lstrip("-").partition("=")
            raise ConfigError(
                f"command line: {argument}: write {key.replace('-', '_')}={value or '<value>'}, no dashes"
            )


def _program() -> str:
    """The program as the user started it."""
    return "afa" if Path(sys.argv[0]).name == "afa" else "python main.py"


def _parser() -> argparse.ArgumentParser:
    tasks = "\n".join(f"  python main.py {task.example}\n      {task.summary}" for task in TASKS.values())
    parser = argparse.ArgumentParser(
        prog=_program().removeprefix("python "),
        usage="%(prog)s [-h] [--version] [CONFIG] [key=value ...]",
        description="Attentive feature alignment (AFA): transfer a pre-trained network to a small image data set.",
        epilog=_EPILOG.format(tasks=tasks).replace("python main.py", _program()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    parser.add_argument(
        "arguments",
        metavar="CONFIG key=value",
        nargs="+",
        help="a HOCON file, for example one of hocon_config/, and settings that override those of the file",
    )
    return parser


def _version() -> str:
    """Versions of this program and of the packages that determine a result, read without importing them."""
    versions = [f"AFA {afa.__version__}", f"Python {platform.python_version()}"]
    for package in ("torch", "torchvision"):
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{package} is not installed")
    return ", ".join(versions)
