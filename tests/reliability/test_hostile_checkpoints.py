"""A checkpoint of any content, without a digest, is used or refused in one line by every command that reads it."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from afa.command_line import main
from afa.errors import AFAError, CheckpointError
from afa.inference.classifier import load_classifier
from afa.inference.trained_attention import attention_to, centre_views
from afa.training.checkpoint import Checkpoint, load_checkpoint
from tests.reliability.runs import commands, one_line

HEAD = "classifier.1.bias"
WEIGHT = "features.0.0.weight"
FIELDS: dict[str, Any] = {
    "split": "x",
    "augmentation": "evil",
    "background": "evil",
    "grey_range": "0..x",
    "image_size": 10**6,
    "classes": [str(number) for number in range(2_000_000)],
    "backbone": "resnet5000",
    "aligned_layers": ["nothing"],
    "epoch": -1,
    "top1": float("inf"),
    "settings": "lr = ",
    "method": 3,
    "training": {"history": [{"epoch": "one"}]},
    "attention": {"alignments.spatial.attentions.0.weight": 3},
}
TENSORS: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "head without dimensions": lambda model: model.update({HEAD: torch.tensor(1.0)}),
    "head of no class": lambda model: model.update({HEAD: torch.zeros(0)}),
    "NaN": lambda model: model[WEIGHT][0, 0, 0, 0].fill_(float("nan")),
    "infinite": lambda model: model[WEIGHT][0, 0, 0, 0].fill_(float("inf")),
    "int8": lambda model: model.update({WEIGHT: model[WEIGHT].to(torch.int8)}),
    "other shape": lambda model: model.update({WEIGHT: model[WEIGHT][:1]}),
}
TRAINING: dict[str, Callable[[dict[str, Any]], object]] = {
    "momentum of another shape": lambda t: t["optimizer"]["state"][0].update(momentum_buffer=torch.zeros(1)),
    "momentum of another type": lambda t: t["optimizer"]["state"][0].update(momentum_buffer=torch.zeros(1).int()),
    "momentum that is text": lambda t: t["optimizer"]["state"][0].update(momentum_buffer="x"),
    "momentum of no parameter": lambda t: t["optimizer"]["state"].update({9999: t["optimizer"]["state"][0]}),
    "no optimiser": lambda t: t.pop("optimizer"),
    "optimiser state is a list": lambda t: t["optimizer"].update(state=[1]),
    "generator": lambda t: t.update(generator=torch.zeros(5)),
    "generator that is short": lambda t: t.update(generator=torch.zeros(5, dtype=torch.uint8)),
    "step": lambda t: t.update(step=10**9),
    "sums": lambda t: t.update(sums=torch.zeros(2, dtype=torch.float64)),
    "history": lambda t: t["history"][0].update(total=float("nan")),
    "history that is text": lambda t: t.update(history="x"),
    "log_position": lambda t: t.update(log_position=-1),
    "inputs": lambda t: t.update(inputs=[1]),
}


def rewritten(run: Path, change: Callable[[dict[str, Any]], object], name: str = "best.pth") -> Path:
    """The run's checkpoint, changed and without its digest."""
    path = run / "check_point" / name
    content = copy.deepcopy(torch.load(path, weights_only=True))
    change(content)
    torch.save(content, path)
    (path.parent / "SHA256SUMS").unlink(missing_ok=True)
    return path


@pytest.fixture
def finished(undisturbed, tmp_path) -> Path:
    return shutil.copytree(undisturbed["one"], tmp_path / "run")


def use(path: Path, image: Path) -> None:
    classifier = load_classifier(path, gpu_id="cpu")
    _, views = centre_views(classifier, [image])
    attention_to(classifier, views)


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_with_an_impossible_value_is_one_line(finished, words, field):
    path = rewritten(finished, lambda content: content.update({field: FIELDS[field]}))
    image = next(Path(words[0].partition("=")[2]).rglob("*.png"))
    with pytest.raises(AFAError) as raised:
        use(path, image)
    assert len(raised.value.lines) == 1
    assert str(path) in raised.value.lines[0] or "base_model_name" in raised.value.lines[0]


@pytest.mark.parametrize("value", [None, torch.zeros(2), torch.tensor(float("nan")), [torch.zeros(2)], {"x": 1}, -1])
@pytest.mark.parametrize("field", sorted(set(Checkpoint.__dataclass_fields__) - {"model", "attention", "training"}))
def test_a_field_of_another_type_is_one_line(tmp_path, field, value):
    path = tmp_path / "a.pth"
    torch.save({"model": {"w": torch.zeros(1)}, "epoch": 1, "classes": ["a"], field: value}, path)
    with pytest.raises(CheckpointError, match=f"a.pth: not a checkpoint of this program: {field} has a wrong type"):
        load_checkpoint(path)


@pytest.mark.parametrize("change", TENSORS)
def test_weights_that_cannot_be_right_are_one_line(finished, change):
    path = rewritten(finished, lambda content: TENSORS[change](content["model"]))
    with pytest.raises(AFAError) as raised:
        load_classifier(path, gpu_id="cpu")
    assert len(raised.value.lines) == 1
    assert "classifier.1" in raised.value.lines[0] or WEIGHT in raised.value.lines[0]


@pytest.mark.parametrize("change", TRAINING)
def test_a_run_with_an_impossible_state_is_not_resumed(words, cut, capsys, change):
    for name in ("last.pth", "previous.pth"):
        rewritten(cut / "run", lambda content: TRAINING[change](content["training"]), name)
    assert main(commands(words, cut)["one"]) == 1
    assert "last.pth" in one_line(capsys.readouterr().err)


def test_hyper_parameters_are_those_of_the_config(words, cut, undisturbed):
    def change(content: dict[str, Any]) -> None:
        for group in content["training"]["optimizer"]["param_groups"]:
            group.update(momentum=0.1, maximize=True, weight_decay=0.5, nesterov=True)

    rewritten(cut / "run", change, "last.pth")
    assert main(commands(words, cut)["one"]) == 0
    ours, theirs = (
        torch.load(run / "check_point/last.pth", weights_only=True) for run in (cut / "run", undisturbed["one"])
    )
    assert all(torch.equal(ours["model"][name], theirs["model"][name]) for name in theirs["model"])
