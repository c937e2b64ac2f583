"""The entry of one run, and of an evaluation without a config."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from afa.commands.algorithm import execute
from afa.commands.dry_run import print_dry_run
from afa.commands.jobs import open_pool, train_repeats
from afa.commands.search import with_chosen_values
from afa.config.schema import check_dataset
from afa.config.settings import BackboneSettings, DataSettings, RunSettings, Settings
from afa.config.tasks import EvaluationSettings
from afa.errors import ConfigError
from afa.inference.trained_attention import read_settings
from afa.machine.launch import read_launch
from afa.networks.backbones import row_of
from afa.results.run_folder import find_checkpoint, find_run
from afa.training.checkpoint import load_checkpoint
from afa.training.learner import backbone_name


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
    if settings.is_searched or settings.run.repeat > 1:
        with open_pool([settings]) as pool:
            if settings.is_searched:
                settings = with_chosen_values(settings, pool)
            settings = train_repeats(settings, pool)
    result = execute(settings, command)
    if settings.run.report and read_launch().rank == 0:
        from afa.report.page import report_on  # matplotlib takes a while to import

        report_on(settings)
    return result


def evaluate(task: EvaluationSettings) -> dict[str, Any]:
    """Evaluate a checkpoint as a run of its own, ``eval/<data set>`` in the folder of the run that wrote it.

    Network, classes, image size and preprocessing are those of the checkpoint. The evaluation of a checkpoint that is
    in no run is in ``outpath``. An earlier evaluation is renamed.

    Returns:
        the content of ``result.json``.

    Raises:
        AFAError: see its subclasses; also if the data set is not known or does not exist.
    """
    path = find_checkpoint(task.pre_trained_path, task.outpath)
    checkpoint, written_by = load_checkpoint(path), find_run(path)
    name = backbone_name(checkpoint, path, task.base_model_name)
    released = DataSettings(dataset="", root="", image_size=row_of(name).image_size)
    own = read_settings(checkpoint, path).data if checkpoint.settings else released
    data = replace(
        own,
        root=task.target_data_dir or own.root,
        dataset=task.target_dataset or own.dataset,
        batch_size=task.batch_size,
        bad_images=task.bad_images,
        num_workers=task.num_workers,
    )
    if not (data.root and data.dataset):
        raise ConfigError(f"{path}: contains no name of a data set; add target_data_dir=<folder> target_dataset=<name>")
    if problems := check_dataset(data.root, data.dataset):
        raise ConfigError([f"{key}: {message}" for key, message in problems])
    if written_by:
        outpath, names = written_by.path / "eval", path.absolute().parents[1].relative_to(written_by.path).parts
        if outpath.is_relative_to(Path.cwd()):  # as short as the user wrote it
            outpath = outpath.relative_to(Path.cwd())
    else:
        outpath, names = Path(task.outpath), (path.stem, "eval")
    options = RunSettings(
        mode="eval",
        outpath=str(outpath),
        exp_id="_".join([*names, Path(data.dataset).name]),
        pre_trained_path=str(path),
        gpu_id=task.gpu_id,
        overwrite=True,
    )
    settings = Settings(data, BackboneSettings(name=name), stages=(), run=options)
    defaults = EvaluationSettings(pre_trained_path="")
    given = [f"{key}={value}" for key, value in vars(task).items() if value != getattr(defaults, key)]
    return run(settings, shlex.join(["python", "main.py", "mode=eval", *given]))
