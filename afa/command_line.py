"""Arguments -> settings -> run. torch is imported only once the settings are known to be good."""

import argparse
import shlex
import sys
from collections.abc import Sequence

from afa.config.grid import Grid
from afa.config.hocon import load_config
from afa.errors import AFAError

_EPILOG = """\
examples:
  python main.py hocon_config/demo/afa.hocon
  python main.py hocon_config/First_stage_AST/resnet101_stanford_dogs_120.hocon target_data_dir=/data
  python main.py hocon_config/Second_stage_ACT/resnet101_Stanford_dogs_120.hocon target_data_dir=/data
  python main.py hocon_config/val/resnet101_Stanford_dogs_120.hocon target_data_dir=/data pre_trained_path=best.pth
  python main.py hocon_config/paper/table_4.hocon target_data_dir=/data
  python main.py hocon_config/paper/table_4.hocon target_data_dir=/data mode=report

A run writes to <outpath>/<run name>/. The same command again goes on with a run that was
cut short, and does nothing if it is finished. All keys are explained in README.md.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 the run failed, 2 the settings are wrong."""
    parser = argparse.ArgumentParser(
        prog="main.py",
        description="Attentive feature alignment (AFA): transfer a pre-trained network to a small image data set.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG", help="a HOCON file, for example one of hocon_config/")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="settings that replace the file's")
    words = parser.parse_args(arguments)
    try:
        config = load_config(words.config, words.overrides, check_files=True)
        if isinstance(config, Grid):
            from afa.grid.command import do_grid

            return do_grid(config)
        if config.run.dry_run:
            from afa.training.dry_run import dry_run

            dry_run(config)
        else:
            from afa.grid.search import run
            from afa.report.page import report_on

            run(config, command=shlex.join(["python", "main.py", *(arguments or sys.argv[1:])]))
            report_on(config)
    except AFAError as error:
        print("\n".join(error.lines), file=sys.stderr)
        return error.exit_status
    except OSError as error:  # a full disk, a folder that is gone: files written beside the checkpoints
        place = f"{error.filename}: " if error.filename else ""
        print(f"{place}{error.strerror or error}; the same command goes on from the last checkpoint", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped before the run began", file=sys.stderr)
        return 130
    return 0
