"""The entry of one run."""

from typing import Any

from afa.commands.algorithm import execute
from afa.commands.dry_run import print_dry_run
from afa.commands.search import with_chosen_values
from afa.config.settings import Settings
from afa.machine.launch import read_launch


def run(settings: Settings, command: str = "") -> dict[str, Any]:
    """Do what the settings of a run ask for: a dry run; or the search, the run, and its report page.

    Args:
        command: what the user typed; stored with the result.

    Returns:
        the content of ``result.json``; for a dry run the estimate.

    Raises:
        AFAError: see its subclasses.
    """
    if settings.run.dry_run:
        estimate = print_dry_run(settings)
        return {**estimate._asdict(), "stages": [stage._asdict() for stage in estimate.stages]}
    if settings.is_searched:
        settings = with_chosen_values(settings)
    result = execute(settings, command)
    if read_launch().rank == 0:
        from afa.report.page import report_on  # matplotlib takes a while to import

        report_on(settings)
    return result
