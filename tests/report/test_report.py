"""``report.html``: what it says, that names in it are text and nothing else, and how a browser shows it."""

import html
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

import afa
from afa.command_line import main
from afa.report.charts import HEIGHT, WIDTH, stage_charts
from afa.report.confusion import Confusion, Prediction
from afa.report.matrix import draw_matrix

AFA = Path(__file__).parents[2] / "hocon_config/AFA/mobilenet_v2_stanford_dogs_120.hocon"
HOSTILE = ("<img src=x onerror=alert(1)>", "<script>alert('1') & \"2\"", "a" * 120)
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(HTMLParser):
    """The tags, their attributes, and the text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def hostile_data(tmp_path_factory, data_dir) -> Path:
    """The tiny data set with class names that want to be more than text."""
    root = tmp_path_factory.mktemp("hostile")
    for split in ("train", "test"):
        for name, folder in zip(HOSTILE, sorted((data_dir / "tiny" / split).iterdir()), strict=True):
            (root / "tiny" / split).mkdir(parents=True, exist_ok=True)
            shutil.copytree(folder, root / "tiny" / split / name)
    return root


@pytest.fixture(scope="module")
def command(words_for, hostile_data, tmp_path_factory) -> list[str]:
    """Two stages over two seeds, and a page."""
    words = words_for(tmp_path_factory.mktemp("reported"))
    return [str(AFA), *words, f"target_data_dir={hostile_data}", "exp_id=afa", "repeat=2", "report=true"]


@pytest.fixture(scope="module")
def report(command) -> Path:
    """The page that the command wrote."""
    assert main(command) == 0
    (outpath,) = [word.removeprefix("outpath=") for word in command if word.startswith("outpath=")]
    return Path(outpath) / "afa/report.html"


def test_it_says_what_the_run_did_and_holds_no_foreign_markup(report, hostile_data):
    page = Page(report)
    assert not [tag for tag, _ in page.tags if tag == "script"]
    links = [attributes[name] for _, attributes in page.tags for name in ("src", "href") if name in attributes]
    assert links
    assert all(link.startswith("data:") for link in links)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    for name in HOSTILE:
        assert name in page.text
    for text in ("AST then ACT", "chosen on the test images", "spatial_4", "channel_4", "repeat=2", "torchvision"):
        assert text in page.text
    captions = re.findall(r"features\.\d+\.conv\.2: ", page.text)
    assert len(captions) == 2 * 4 * 4  # stages, images, layers
    assert sum(tag == "polyline" for tag, _ in page.tags) == 2 * (2 + 2 + 1 + 1 + 4) * 2


def test_it_is_made_again_when_it_is_missing_and_says_which_images_are_gone(command, hostile_data, report, capsys):
    report.unlink()
    for path in hostile_data.glob("tiny/test/*/*"):
        path.rename(path.with_suffix(".away"))
    try:
        assert main(command) == 0
    finally:
        for path in hostile_data.glob("tiny/test/*/*"):
            path.rename(path.with_suffix(".png"))
    assert f"report: {report}" in capsys.readouterr().out
    text = Page(report).text
    assert "no longer there" in text
    assert "No pictures of the attention: " in text
    time = report.stat().st_mtime_ns
    assert main(command) == 0
    assert report.stat().st_mtime_ns == time


def test_an_evaluation_has_a_page_too(words, report, hostile_data, tmp_path):
    config = "hocon_config/val/mobilenet_v2_Stanford_dogs_120.hocon"
    words = [*words, f"target_data_dir={hostile_data}", "exp_id=seen", "report=true"]
    assert main([config, *words, f"pre_trained_path={report.parent}"]) == 0
    page = Page(tmp_path / "runs/seen/report.html")
    assert "top-5" in page.text
    assert "Of the checkpoint evaluated" in page.text


def test_a_run_from_python_has_a_page_too(settings_for, tmp_path):
    afa.run(settings_for(max_iter=3, report="true"))
    page = Page(tmp_path / "runs/run/report.html")
    assert f"python main.py {tmp_path / 'runs/run/settings.log'} exp_id=again" in page.text


def browse(path: Path, *options: str) -> subprocess.CompletedProcess:
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    return subprocess.run(
        [*command, *options, path.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_shows_it_on_a_phone_without_a_complaint(report, tmp_path):
    assert "CONSOLE" not in browse(report, "--dump-dom").stderr
    # A window cannot be that narrow, a frame can. The page in it runs no script; the one around asks for its width.
    ask = "const d = frames[0]; document.title = [d.innerWidth, d.document.documentElement.scrollWidth].join(' ')"
    page = html.escape(report.read_text(encoding="utf-8").replace("<body>", "<body style='overflow-y: hidden'>"))
    frame = f'<iframe width=360 height=800 frameborder=0 srcdoc="{page}" onload="{html.escape(ask)}"></iframe>'
    (tmp_path / "phone.html").write_text(f"<!DOCTYPE html><title></title>{frame}", encoding="utf-8")
    shown = browse(tmp_path / "phone.html", "--dump-dom").stdout
    assert re.search(r"<title>(.*?)</title>", shown)[1] == "360 360"


def test_confusion_counts_and_orders_mistakes():
    def predict(true: str, predicted: str, probability: float) -> Prediction:
        return Prediction(Path(f"{true}/{probability}.png"), true, predicted, probability)

    confusion = Confusion(
        [
            predict("a", "a", 0.9),
            predict("a", "b", 0.4),
            predict("a", "b", 0.8),
            predict("b", "b", 1),
            predict("c", "a", 1),
        ]
    )
    first, second = confusion.most_confused(8)
    assert (first.true, first.predicted, first.of) == ("a", "b", 3)
    assert [image.probability for image in first.images] == [0.8, 0.4]
    assert (second.true, second.predicted) == ("c", "a")
    assert [(c.name, c.correct, c.images) for c in confusion.per_class()] == [("c", 0, 1), ("a", 1, 3), ("b", 1, 1)]
    matrix = draw_matrix(confusion)
    ((cell,)) = [cell for cell in matrix.cells if cell.said == "a taken for b: 2 of 3"]
    assert (cell.x - matrix.margin, cell.y - matrix.margin, cell.count, cell.part) == (20, 0, 2, 0.667)


@pytest.mark.parametrize("epochs", [1, 2, 24])
@pytest.mark.parametrize("scale", [0.0, 1e-12, 1.0, 1e9])
def test_curves_stay_in_their_frame(epochs, scale):
    names = ("train_top1", "top1", "classification", "loss", "alignment", "entropy_spatial_1")
    rows = [{"epoch": e, "learning_rate": 0.01} | dict.fromkeys(names, scale * e) for e in range(1, epochs + 1)]
    rows[-1]["loss"] = float("inf")
    for chart in stage_charts([rows], "test"):
        for line in chart.lines:
            for x, y in (map(float, point.split(",")) for point in line.points.split()):
                assert 0 <= x <= WIDTH, chart.title
                assert 0 <= y <= HEIGHT, chart.title
        assert 2 <= len(chart.up) <= 8
