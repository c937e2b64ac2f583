"""Repeats and searches with several jobs have the results of one job, also after an interruption."""

import json
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from afa.command_line import main
from afa.commands import jobs
from afa.commands.jobs import open_pool
from afa.errors import ConfigError
from afa.machine.pool import Pool
from tests.processes import Program
from tests.same import assert_the_same


def accuracies(folder) -> object:
    result = json.loads((folder / "result.json").read_text())
    return [[(stage["best"], stage["last"]) for stage in stages] for stages in result["repeats"]]


def test_repeats_have_the_weights_of_one_job_also_if_they_were_interrupted(words, tmp_path, capsys):
    command = ["tests/tiny.hocon", *words, "reg_type=l2", "repeat=2", "max_iter=60", "test_every=20"]
    one, several = tmp_path / "runs/one", tmp_path / "runs/several"
    assert main([*command, "exp_id=one"]) == 0
    interrupted = [*command, "exp_id=several", "print_freq=1"]
    program = Program([*interrupted, "jobs=2"], tmp_path)
    try:
        for repeat in (1, 2):
            program.wait_for_line(several / "experiment.log", f"L2 (repeat {repeat}/2) epoch 1/20 step 1/")
        program.send(signal.SIGINT, to_group=True)  # as Ctrl-C does: the processes receive it twice
        assert program.wait() == 128 + signal.SIGINT
    finally:
        program.end()
    assert program.errors.endswith("stopped by SIGINT; run the same command again to resume\n")
    assert not (several / "result.json").exists()
    assert main(interrupted) == 0  # one job resumes the repeats that two jobs started
    assert_the_same(several, one, log=False)
    assert accuracies(several) == accuracies(one)
    log = (several / "experiment.log").read_text()
    assert all(f"L2 (repeat {repeat}/2) epoch 1/20 step 1/" in log for repeat in (1, 2))  # nothing was cut off
    capsys.readouterr()
    assert main([*interrupted, "jobs=2"]) == 0
    assert "already finished" in capsys.readouterr().out


def test_a_search_has_the_results_of_one_job(words, tmp_path):
    command = ["tests/tiny.hocon", *words, "max_iter=3", "validation_fraction=0.5", "search.alpha=[0.01, 1e30]"]
    found = {}
    for number in ("1", "2"):
        assert main([*command, "search.repeat=2", f"exp_id={number}", f"jobs={number}", "quiet=true"]) == 0
        found[number] = json.loads((tmp_path / f"runs/{number}.search/search.json").read_text())
    assert found["1"] == found["2"]
    assert found["2"]["stages"][0]["tried"][1]["held_out_top1"] is None
    assert accuracies(tmp_path / "runs/1") == accuracies(tmp_path / "runs/2")


@pytest.mark.parametrize(("values", "size"), [({}, 1), ({"jobs": 3}, 3), ({"jobs": 9}, 5), ({"jobs": "auto"}, 4)])
def test_the_number_of_runs_at_a_time(settings_for, monkeypatch, values, size):
    estimate = SimpleNamespace(memory_bytes=10**9)
    monkeypatch.setattr(jobs, "_cores", lambda: 8)
    monkeypatch.setattr(jobs, "available_memory", lambda: int(4.9e9))
    monkeypatch.setattr(jobs, "ProcessPool", FakePool)
    monkeypatch.setattr(jobs, "estimate_run", lambda settings: estimate)
    assert open_pool([settings_for(repeat=5, **values)]).size == size


def test_on_gpus_each_run_has_one_of_the_visible_gpus(settings_for, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(jobs, "ProcessPool", FakePool)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,6")
    settings = settings_for(repeat=5, jobs="auto", gpu_id=0)
    assert open_pool([settings]).gpus == ["3", "6"]
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES selects the GPUs"):
        open_pool([replace(settings, run=replace(settings.run, gpu_id="1"))])


class FakePool(Pool):
    """A pool that calls in this process."""

    def __init__(self, gpus, threads, *, quiet=False):
        self.gpus, self.size = gpus, len(gpus)
