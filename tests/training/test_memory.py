"""Tensors that are no longer used are freed at known points, not whenever Python's garbage collector runs."""

import gc
import weakref

import pytest
import torch

from afa.command_line import main
from afa.commands.algorithm import stages
from afa.commands.evaluation import prepare_evaluation
from afa.commands.image_reader import Images
from afa.machine.context import Context, Processes
from afa.machine.signals import Signals
from afa.networks.build import build_network
from afa.results.journal import Journal
from afa.results.run_folder import RunFolder
from afa.training.engine import train_step
from afa.training.stage import Stage
from tests.learners import demo_learner

AFA = "hocon_config/AFA/mobilenet_v2_stanford_dogs_120.hocon"


@pytest.fixture(autouse=True)
def without_automatic_collection():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def alive_at_each_build(monkeypatch):
    """For each stage that is built: how many tensors of all earlier stages are still in memory."""
    alive, tensors = [], []
    build_learner = Stage.build_learner

    def counting_build_learner(stage, context):
        learner = build_learner(stage, context)
        alive.append(sum(tensor() is not None for tensor in tensors))
        momenta = [state["momentum_buffer"] for state in learner.optimizer.state.values()]
        source = learner.source._extractor.parameters() if learner.source else ()
        for tensor in (*learner.target.state_dict(keep_vars=True).values(), *source, *momenta):
            tensors.append(weakref.ref(tensor))
        return learner

    monkeypatch.setattr(Stage, "build_learner", counting_build_learner)
    yield alive
    assert len(tensors) > 600


def test_a_scoring_leaves_nothing_behind(settings_for):
    learner = demo_learner(settings_for(reg_type="ast"))[0]
    train_step(learner, torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 0]))

    def tensors():
        return sum(issubclass(type(found), torch.Tensor) for found in gc.get_objects())

    learner.target.evaluator()(torch.randn(2, 3, 64, 64))
    before = tensors()
    for _ in range(10):
        learner.target.evaluator()(torch.randn(2, 3, 64, 64))
    assert tensors() == before


@pytest.mark.parametrize(("augmentation", "views"), [("default", 1), ("improved", 10)])
@pytest.mark.parametrize("processes", [1, 4])
def test_a_gpu_that_can_train_can_score(settings_for, tmp_path, augmentation, views, processes):
    settings = settings_for(reg_type="l2", batch_size=30, data_aug=augmentation)
    context = Context(torch.device("cpu"), Journal(tmp_path / "log"), Signals(), SeveralProcesses(processes))
    stage = next(stages(settings, Images(settings.data, context), RunFolder(tmp_path)))
    evaluation = prepare_evaluation(settings, make_checkpoint(tmp_path / "weights.pth"), context)
    trained = -(-30 // processes)  # images of a process in a training batch
    assert stage.train_loader(context).batch_size == 30  # of all processes
    assert stage.test_loader(stage.splits.test, context).batch_size == max(4 * trained // views, 1)
    assert evaluation.loader.batch_size == trained


class SeveralProcesses(Processes):
    """One of several processes, which does not communicate."""

    def __init__(self, size):
        self.size = size


def make_checkpoint(path):
    torch.save({"model": build_network("mobilenet_v2", 3).state_dict()}, path)
    return path


@pytest.mark.parametrize("dry_run", ["false", "true"])
def test_stage_two_starts_without_the_networks_of_stage_one(words, alive_at_each_build, capsys, dry_run):
    assert main([AFA, *words, "exp_id=afa", "alpha=1e-5", f"dry_run={dry_run}"]) == 0, capsys.readouterr().err
    assert alive_at_each_build == [0, 0]


def test_a_run_of_a_grid_starts_without_the_networks_of_a_failed_run(words, alive_at_each_build, capsys):
    assert main(["tests/grid/grid.hocon", *words, 'grid.methods=["l2"]', "lr=1e30"]) == 1
    assert capsys.readouterr().out.count("not finite: ") == 4  # two runs, each reported immediately and at the end
    assert alive_at_each_build == [0, 0]
