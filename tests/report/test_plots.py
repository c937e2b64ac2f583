"""Plots as SVG and as pixels: what they show, names that are not markup, colours of the page, nothing cut off."""

import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from afa.inference.trained_attention import LayerAttention
from afa.report import plots
from afa.report.confusion import ClassifiedImage, Confusion
from afa.results.outcomes import EpochRow, Spread

HOSTILE = ('<script>alert("1")</script> --> & $x^2$', "犬\udcff\x1b[31m", "a" * 120)
ROW = {
    "epoch": 1,
    "learning_rate": 0.1,
    "classification": 1.0,
    "head_penalty": 0.0,
    "alignment": 0.0,
    "total": 1.0,
    "train_top1": 50.0,
    "images_per_second": 1.0,
    "top1": 40.0,
}


def is_complete(figure: Figure) -> bool:
    """True if no text or line is cut off at the border of the figure."""
    plots.to_image(figure)  # places ticks and legends
    width, height = figure.get_size_inches()
    bounds = figure.get_tightbbox()
    return bool(min(bounds.x0, bounds.y0) > -0.01 and bounds.x1 < width + 0.01 and bounds.y1 < height + 0.01)


def luminance(colour: Sequence[float]) -> float:
    """Relative luminance as WCAG 2 defines it."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(first: Sequence[float], second: Sequence[float]) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_text_and_lines_have_enough_contrast_in_light_and_dark():
    style = Path(plots.__file__).with_name("style.css").read_text(encoding="utf-8")
    schemes = [dict(re.findall(r"--(\w+): (#\w+)", scheme)) for scheme in re.findall(r":root {(.*?)}", style)]
    assert len(schemes) == 2
    assert (schemes[0]["ink"], schemes[0]["quiet"], schemes[0]["rule"]) == (plots._INK, plots._QUIET, plots._RULE)
    confusion = Confusion([predict("a", "a")])
    (cell,) = plots.confusion_matrix(confusion).axes[0].collections[0].get_facecolors()  # the darkest
    for scheme in schemes:
        ink, paper, quiet, soft = (to_rgb(scheme[name]) for name in ("ink", "paper", "quiet", "soft"))
        darkest = cell[3] * cell[:3] + (1 - cell[3]) * np.array(paper)
        for text, ground in ((ink, paper), (quiet, paper), (ink, soft), (quiet, soft), (ink, darkest)):
            assert contrast(text, ground) >= 4.5
        for line in (*plots.LINES, plots._BLUE):
            assert contrast(to_rgb(line), paper) >= 3


def predict(true: str, predicted: str, probability: float = 1.0) -> ClassifiedImage:
    return ClassifiedImage(Path(f"{true}/{probability}.png"), true, predicted, probability)


def test_confusion_counts_and_sorts_errors():
    confusion = Confusion(
        [predict("a", "a", 0.9), predict("a", "b", 0.4), predict("a", "b", 0.8), predict("b", "b"), predict("c", "a")]
    )
    first, second = confusion.most_confused(8)
    assert {image[1:3] for image in first} == {("a", "b")}
    assert [image.probability for image in first] == [0.8, 0.4]
    assert {image[1:3] for image in second} == {("c", "a")}
    assert confusion.totals["a"] == 3
    assert [(c.name, c.correct, c.images) for c in confusion.per_class()] == [("c", 0, 1), ("a", 1, 3), ("b", 1, 1)]
    figure = plots.confusion_matrix(confusion)
    (ax,) = figure.axes
    (cells,) = ax.collections
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "true")
    number = cells.get_urls().index("a classified as b: 2 of 3")
    assert tuple(cells.get_offsets()[number]) == (1, 0)  # column, row
    assert cells.get_facecolors()[number][3] == pytest.approx(0.7 * 2 / 3)
    assert sorted(text.get_text() for text in ax.texts) == ["1", "1", "1", "2"]
    assert "<title>a classified as b: 2 of 3</title>" in plots.to_svg(figure, "confusion matrix")


def test_names_in_a_plot_are_text():
    confusion = Confusion([predict(true, predicted) for true in HOSTILE for predicted in HOSTILE])
    figures = (plots.confusion_matrix(confusion), plots.class_accuracies(confusion.per_class()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in figures:
            root = ET.fromstring(plots.to_svg(figure, "plot"))
            assert not [tag for tag in root.iter() if tag.tag.endswith(("script", "a"))]
            assert '<script>alert("1")</script…' in "".join(root.itertext())
            assert is_complete(figure)
    assert f"{HOSTILE[0]} classified as {HOSTILE[2]}: 1 of 3" in "".join(
        ET.fromstring(plots.to_svg(figures[0], "plot")).itertext()
    )


def test_many_classes_have_no_labels():
    names = [f"class {number:02d}" for number in range(31)]
    figure = plots.confusion_matrix(Confusion([predict(name, name) for name in names]))
    svg = plots.to_svg(figure, "confusion matrix")
    assert svg.count("<title>") == 31
    assert re.findall(r"<text[^>]*>([^<]*)<", svg) == ["predicted", "true"]


@pytest.mark.parametrize("epochs", [1, 2, 24])
@pytest.mark.parametrize("scale", [0.0, 1e-12, 1.0, 1e9])
def test_curves_are_complete(epochs, scale):
    names = ("train_top1", "top1", "classification", "loss", "alignment", "head_penalty", "total", "images_per_second")
    history = [
        EpochRow(
            epoch=e,
            learning_rate=0.00075,
            entropies={f"channel_{n}": 0.9 for n in range(1, 13)},
            **dict.fromkeys(names, scale * e),
        )
        for e in range(1, epochs + 1)
    ]
    unscored = EpochRow.from_dict({**history[0].to_dict(), "loss": float("inf"), "top1": float("nan")})
    figures = plots.stage_curves([[unscored, *history[1:]], history], "test")
    assert len(figures) == (5 if scale else 2)
    for title, figure in figures.items():
        (ax,) = figure.axes
        assert is_complete(figure), title
        assert ax.get_xlabel() == "epoch"
        assert 2 <= len(ax.get_yticks()) <= 12
        low, high = ax.get_ylim()
        for line in ax.lines:
            assert len(line.get_xdata()) >= epochs - 1
            assert all(low <= value <= high for value in line.get_ydata())


def test_an_svg_follows_the_page():
    figure = plots.stage_curves([[EpochRow.from_dict({**ROW, "epoch": epoch}) for epoch in (1, 2)]] * 2, "held_out")[
        "Accuracy, %"
    ]
    svg = plots.to_svg(figure, "Accuracy, %")
    assert svg == plots.to_svg(figure, "Accuracy, %")  # no date, no random ids
    assert svg.startswith('<svg role="img" aria-label="Accuracy, %"')
    assert re.findall(r">([^<]+)</text>", svg)[-2:] == ["training", "held_out"]
    for unwanted in ("font-family", " id=", "<style", "metadata", "Matplotlib", "#000000", plots._INK, plots._QUIET):
        assert unwanted not in svg
    assert "fill: var(--ink)" in svg
    assert "stroke: var(--rule)" in svg


def test_bright_is_large():
    values = np.array([[0.0, 1.0], [0.5, 0.25]])
    pixels = np.asarray(plots.heat_map(values, 0, 1)).sum(axis=-1, dtype=int)
    side = plots.SIDE
    corners = pixels[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert (np.argsort(corners) == np.argsort(values.flatten())).all()
    row, column = np.divmod(pixels.argmax(), side)
    assert row < side * 3 / 8
    assert column > side * 5 / 8
    assert np.asarray(plots.heat_map(values, 0, 100)).sum(axis=-1).max() < 0.5 * pixels.max()


def test_weights_are_sorted_and_cross_the_line_of_uniform_attention():
    pixels = np.asarray(plots.to_image(plots.sorted_weights(np.array([0.3, 1.8, 0.9]))))
    blue = (pixels == (37, 99, 235, 255)).all(axis=-1).sum(axis=0)
    assert (np.diff(blue) <= 0).all()
    assert blue[0] > 3 * blue[-1]
    assert pixels[0, -1, 3] == 0  # transparent: the paper of the page


def test_a_title_is_above_its_image_and_complete():
    image = Image.new("RGBA", (300, 40), (255, 0, 0, 255))
    for title, note in (
        ("a short title", ""),
        ("a_name_of_a_run_" * 9 + " " + "a title " * 30 + HOSTILE[1], "a note " * 60),
    ):
        pixels = np.asarray(plots.titled(image, title, note))
        height, width, _ = pixels.shape
        assert width >= 4 * 200
        heading = (pixels[: height - 40] < 128).all(axis=-1)
        assert heading.any()
        assert not heading[:4].any()
        assert not heading[-4:].any()
        assert not heading[:, -4:].any()
        assert (pixels[-40:, :300] == (255, 0, 0)).all()


def test_captions_are_multiples_of_uniform_attention():
    spatial = LayerAttention("layer1", "spatial", torch.tensor([[[0.7, 0.1], [0.1, 0.1]]]))
    channel = LayerAttention("layer1", "channel", torch.full((1, 8), 1 / 8))
    rows = plots.attention_rows([Image.new("RGB", (8, 8))], [spatial, channel])
    assert [image[1:] for image in rows["spatial"][0]] == [("image", ""), ("layer1", "0.40 to 2.80")]
    assert [image[1:] for image in rows["channel"][0]] == [("image", ""), ("layer1", "1.00 to 1.00, entropy 1.000")]


def test_the_same_channel_of_all_networks_has_one_colour_scale():
    maps = torch.zeros(1, 3, 4, 4)
    maps[0, 1, 0, 0] = 1.0  # the only channel that varies
    networks = {("source", ""): maps, ("run", "AST, epoch 2"): maps, ("run (2)", ""): 2 * maps}
    rows = plots.activation_rows([Image.new("RGB", (32, 32))], networks)
    assert rows[0][0][1:] == ("image", "channel 1")
    image = plots.to_image(plots.image_rows(rows)).convert("RGB")
    assert [shown[1:] for shown in rows[0][1:]] == list(networks)
    step, top = plots.SIDE + 12, image.height - 12 - plots.SIDE
    assert image.size == (4 * step + 12, top + step)
    source, same, twice = (
        np.asarray(image)[top : top + plots.SIDE, 12 + step * column : step * (column + 1)] for column in (1, 2, 3)
    )
    assert (source == np.asarray(rows[0][1].image)).all()
    assert (source == same).all()
    assert source.sum(dtype=int) < twice.sum(dtype=int)


def test_captions_are_cut_and_cannot_control_a_terminal():
    figure = plots.image_rows([[plots.Captioned(Image.new("RGB", (40, 10)), "a\nlong name" * 9, "\x1b[31m")]])
    (caption,) = figure.texts
    assert caption.get_text() == "a\\nlong namea\\nlong namea\\…\n\\x1b[31m"
    assert is_complete(figure)


def test_plots_of_a_grid():
    value, epoch = Spread(90.0, 0.5, 3), {"clc_loss": 2.0, "val_loss": float("nan"), "train_total_loss": 3.0}
    figures = (
        plots.accuracy_panels(
            {("ResNet-101", "Dogs", "L2"): (value, value, None), ("ResNet-101", "Birds", "AFA"): (None, None, value)},
            "held_out",
        ),
        plots.accuracy_panels({("mobilenet_v2", "pictures", "L2"): (value, value, value)}, "held_out"),
        plots.loss_curves({"ResNet-101, Dogs": {"L2": [[epoch, epoch], [epoch]], "AFA": [[epoch]]}}),
        plots.images_per_class({"ResNet-101": {"L2": {10.0: [50.0, 51.0], 20.5: [60.0]}}}, {}),
    )
    for figure in figures:
        assert is_complete(figure)
    mean, _ = figures[2].axes
    assert [list(line.get_ydata()) for line in mean.lines] == [[2.0, 2.0], [], [2.0], []]
