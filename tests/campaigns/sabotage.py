"""Deliberate breakages of the program: each must be noticed by a test of the quick suite.

    python tests/campaigns/sabotage.py [--only TEXT]

Each breakage replaces one text of one file in a copy of the repository, and executes one test there. A test that still
passes, or that cannot be executed, is a failure, and the exit status 1. All tests must pass in a copy without breakage.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_IGNORED = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "runs", "data.*", "*.egg-info")


class Breakage(NamedTuple):
    """``old`` is replaced by ``new`` in ``afa/<path>``; ``test`` is the pytest name of a test that fails then."""

    path: str
    old: str
    new: str
    test: str

    def apply(self, root: Path) -> None:
        """Raise ValueError if the text is not exactly once in the file."""
        file = root / "afa" / self.path
        text = file.read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"afa/{self.path}: contains {text.count(self.old)} times: {self.old}")
        file.write_text(text.replace(self.old, self.new))


BREAKAGES = (
    # files, errors, the command line
    Breakage(
        "files.py",
        "        os.fsync(descriptor)\n",
        "        pass\n",
        "tests/test_files.py::test_a_file_is_on_the_disk_before_it_gets_its_name",
    ),
    Breakage(
        "files.py",
        "fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "pass",
        "tests/test_files.py::test_a_lock_excludes_other_processes_until_they_die",
    ),
    Breakage(
        "files.py",
        "text.startswith(_FORMULA)",
        "False",
        "tests/test_files.py::test_no_cell_of_a_table_is_a_formula_and_the_same_names_are_read",
    ),
    # the method
    Breakage(
        "method/alignment.py",
        "    return ((positions * attention).square() * distance).sum() / (2 * batch)",
        "    return -((positions * attention).square() * distance).sum() / (2 * batch)",
        "tests/method/test_golden.py::test_attentive_alignment",
    ),
    Breakage(
        "method/alignment.py",
        "return None, (target - source).mul_(2 * gradient), None",
        "return None, (source - target).mul_(2 * gradient), None",
        "tests/method/test_golden.py::test_feature_map_alignment",
    ),
    Breakage(
        "method/penalties.py",
        "(now - then).square()",
        "(now - then).abs()",
        "tests/method/test_golden.py::test_penalties",
    ),
    # networks
    Breakage(
        "networks/weights.py",
        "weights_only=True",
        "weights_only=False",
        "tests/networks/test_networks.py::test_a_pickle_that_would_run_code_is_refused_and_does_not_run",
    ),
    Breakage(
        "networks/features.py",
        "                module.inplace = False\n",
        "                pass\n",
        "tests/networks/test_networks.py::test_an_in_place_activation_does_not_change_an_aligned_map",
    ),
    # data
    Breakage(
        "data/folders.py",
        "random.Random(key).sample(own, count)",
        "random.Random().sample(own, count)",
        "tests/data/test_folders.py::test_hold_out_depends_only_on_its_seed",
    ),
    Breakage(
        "data/folders.py",
        "path.stat().st_size\n",
        "0\n",
        "tests/data/test_folders.py::test_the_fingerprint_depends_on_names_and_sizes_and_not_on_the_root",
    ),
    Breakage(
        "data/transforms.py",
        "    # Hashed: with seed + epoch,",
        "    return torch.Generator().manual_seed(seed + epoch)\n    # Hashed: with seed + epoch,",
        "tests/data/test_transforms.py::test_order_and_augmentation_have_independent_generators",
    ),
    # results
    Breakage(
        "results/outcomes.py",
        "statistics.stdev(values)",
        "statistics.pstdev(values)",
        "tests/results/test_outcomes.py::test_the_deviation_over_seeds_is_that_of_a_sample",
    ),
    Breakage(
        "results/outcomes.py",
        "return 100 * self.correct / self.images if",
        "return 100 * self.correct / self.predicted if",
        "tests/results/test_outcomes.py::test_precision_recall_and_f1_of_a_class",
    ),
    # config
    Breakage(
        "config/settings.py",
        "        if before.get(key) != after.get(key)\n",
        "        if False\n",
        "tests/reliability/test_inputs.py::test_other_settings_are_refused_by_key_and_harmless_ones_accepted",
    ),
    Breakage(
        "config/schema.py",
        "names.index(first) > names.index(second)",
        "names.index(first) < names.index(second)",
        "tests/config/test_hocon.py::test_of_two_exclusive_keys_the_one_of_higher_precedence_applies",
    ),
    # preparation
    Breakage(
        "preparation/archives.py",
        "digest.hexdigest() != published",
        "False",
        "tests/preparation/test_preparing.py::test_a_wrong_size_or_digest_is_reported_with_both_values",
    ),
    Breakage(
        "preparation/archives.py",
        'name.is_absolute() or ".." in name.parts or ',
        "",
        "tests/preparation/test_preparing.py::test_a_zip_file_with_a_link_or_a_path_outside_is_refused",
    ),
    # the process and its device
    Breakage(
        "machine/device.py",
        "_open_gpu(launch.local_rank), note",
        "_open_gpu(0), note",
        "tests/machine/test_device.py::test_the_chosen_gpu_becomes_the_current_one",
    ),
    Breakage(
        "machine/signals.py",
        "        if number == signal.SIGUSR1:\n            self._save_requested = True\n",
        "        if number == signal.SIGUSR1:\n",
        "tests/reliability/test_interruptions.py::test_sigusr1_writes_a_checkpoint_and_training_continues",
    ),
    # training
    Breakage(
        "training/checkpoint.py",
        '        path.replace(path.with_name(f"{path.name}.damaged"))\n',
        "        pass\n",
        "tests/reliability/test_checkpoint_files.py::test_killed_after_damage_the_intact_checkpoint_is_kept",
    ),
    Breakage(
        "training/checkpoint.py",
        "if listed and path.exists() and sha256(path) not in listed:",
        "if False:",
        "tests/reliability/test_checkpoint_files.py::test_the_previous_checkpoint_replaces_a_damaged_one",
    ),
    Breakage(
        "training/state.py",
        'return {"state": stored, "param_groups"',
        'return {"state": {}, "param_groups"',
        "tests/reliability/test_checkpoint_files.py::test_the_previous_checkpoint_replaces_a_damaged_one",
    ),
    Breakage(
        "training/loop.py",
        "score_split(self.learner.target, stage, stage.splits.monitor, context)",
        "score_split(self.learner.target, stage, stage.splits.test, context)",
        "tests/test_end_to_end.py::test_the_test_images_are_scored_only_after_the_selection",
    ),
    # commands
    Breakage(
        "commands/image_reader.py",
        "return Splits(own, self._reader.read_held_out(held_out), self.test",
        "return Splits(own, self.test, self.test",
        "tests/test_end_to_end.py::test_the_test_images_are_scored_only_after_the_selection",
    ),
    Breakage(
        "commands/image_reader.py",
        'if digests[key][1] != before["sha256"]:',
        "if False:",
        "tests/commands/test_changed_data.py::test_a_finished_run_is_not_reported_for_other_data",
    ),
    Breakage(
        "commands/search.py",
        'stages[-1]["last"]["selection_top1"]',
        'stages[-1]["last"]["test_top1"]',
        "tests/commands/test_search.py::test_the_test_images_do_not_score_a_trial",
    ),
    # inference
    Breakage(
        "inference/exporters.py",
        "(pixels.float() / 255 - self.mean) / self.std",
        "(pixels.float() / 255 - self.std) / self.mean",
        "tests/inference/test_exporters.py::test_the_exported_graph_normalises_as_a_run_does",
    ),
    Breakage(
        "inference/classifier.py",
        "Preprocessing(size, content.augmentation or",
        "Preprocessing(size, '' or",
        "tests/inference/test_predictions.py::test_a_prediction_equals_that_of_the_evaluation_bit_for_bit",
    ),
    # report
    Breakage(
        "report/page.py",
        "autoescape=True",
        "autoescape=False",
        "tests/report/test_page.py::test_it_describes_the_run_and_contains_no_foreign_markup",
    ),
    Breakage(
        "report/confusion.py",
        "key=lambda image: -image.probability",
        "key=lambda image: image.probability",
        "tests/report/test_plots.py::test_confusion_counts_and_sorts_errors",
    ),
    # grid
    Breakage(
        "grid/comparison.py",
        "values[seed] - baseline[seed] for",
        "baseline[seed] - values[seed] for",
        "tests/grid/test_comparison.py::test_the_interval_is_that_of_a_paired_t_test",
    ),
    Breakage(
        "grid/run_states.py",
        "    if different:\n",
        "    if False:\n",
        "tests/grid/test_tables.py::test_incomplete_runs_are_counted_and_named",
    ),
)


def failing(tests: Iterable[str], root: Path) -> int:
    """Exit status of pytest: 0 if the tests pass, 1 if one of them fails, another one if they cannot be executed."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "", *tests]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(root)}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, check=False).returncode


def main() -> int:
    """Apply all breakages, one by one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="only breakages of files whose path contains this text")
    only = parser.parse_args().only
    chosen = [breakage for breakage in BREAKAGES if only in breakage.path]
    unnoticed, started = 0, time.monotonic()
    for breakage in (None, *chosen):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(shutil.copytree(ROOT, Path(folder) / "copy", ignore=_IGNORED))
            if breakage is None:
                if failing(sorted({each.test for each in chosen}), root):
                    print("one of the tests fails without a breakage")
                    return 1
                continue
            try:
                breakage.apply(root)
            except ValueError as error:
                print(error)
                return 1
            outcome = {0: "NOT NOTICED", 1: "noticed"}.get(failing([breakage.test], root), "NOT EXECUTED")
        unnoticed += outcome != "noticed"
        print(f"| afa/{breakage.path} | {breakage.test} | {outcome} |", flush=True)
    minutes = (time.monotonic() - started) / 60
    print(f"{len(chosen) - unnoticed} of {len(chosen)} breakages noticed, {minutes:.0f} minutes")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
