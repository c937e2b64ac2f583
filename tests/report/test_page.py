"""``report.html``: its content, names that are text and not markup, and how a browser shows it."""

import html
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

import afa
from afa.command_line import main

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
    """The tiny data set with class names that contain markup."""
    root = tmp_path_factory.mktemp("hostile")
    for split in ("train", "test"):
        for name, folder in zip(HOSTILE, sorted((data_dir / "tiny" / split).iterdir()), strict=True):
            (root / "tiny" / split).mkdir(parents=True, exist_ok=True)
            shutil.copytree(folder, root / "tiny" / split / name)
    return root


@pytest.fixture(scope="module")
def command(words_for, hostile_data, tmp_path_factory) -> list[str]:
    """Two stages, two seeds, and a page."""
    words = words_for(tmp_path_factory.mktemp("reported"))
    return [str(AFA), *words, f"target_data_dir={hostile_data}", "exp_id=afa", "repeat=2", "report=true"]


@pytest.fixture(scope="module")
def report(command) -> Path:
    """The page that the command wrote."""
    assert main(command) == 0
    (outpath,) = [word.removeprefix("outpath=") for word in command if word.startswith("outpath=")]
    return Path(outpath) / "afa/report.html"


def test_it_describes_the_run_and_contains_no_foreign_markup(report):
    page = Page(report)
    assert not [tag for tag, _ in page.tags if tag == "script"]
    links = [attributes[name] for _, attributes in page.tags for name in ("src", "href") if name in attributes]
    assert links
    assert all(link.startswith("data:") for link in links)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    for name in HOSTILE:
        assert name in page.text
    for text in ("AST then ACT", "selected on the test images", "spatial_4", "channel_4", "repeat=2", "torchvision"):
        assert text in page.text
    captions = re.findall(r"features\.\d+\.conv\.2\d", page.text)
    assert len(captions) == 2 * 4 * 4  # stages, images, layers
    svg = [figure for figure in re.findall("<svg.*?</svg>", report.read_text(encoding="utf-8")) if "epoch" in figure]
    assert len(svg) == 2 * 5  # stages, plots
    lines = sum(len(re.findall(r'fill: none; stroke: #[^"]*"', figure)) for figure in svg)
    assert lines == 2 * (2 + 2 + 1 + 1 + 4) * 2 + 2 * (2 + 2 + 4)  # lines of each repeat, and of legends
    assert ("summary", {}) in page.tags
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert report.stat().st_size < 150_000


def test_it_is_written_again_if_it_is_missing_and_marks_missing_images(command, hostile_data, report, capsys):
    report.unlink()
    away = hostile_data.rename(hostile_data.with_name("away"))
    try:
        afa.run(afa.load_settings(AFA, command[1:]))
    finally:
        away.rename(hostile_data)
    assert f"report: {report}" in capsys.readouterr().out
    text = Page(report).text
    assert "file is missing" in text
    assert "No images of the attention: " in text
    time = report.stat().st_mtime_ns
    assert main(command) == 0
    assert report.stat().st_mtime_ns == time


def test_an_evaluation_has_a_page_too(words, report, hostile_data, tmp_path):
    config = "hocon_config/val/mobilenet_v2_Stanford_dogs_120.hocon"
    words = [*words, f"target_data_dir={hostile_data}", "exp_id=seen", "report=true"]
    assert main([config, *words, f"pre_trained_path={report.parent}"]) == 0
    page = Page(tmp_path / "runs/seen/report.html")
    assert "top-5" in page.text
    assert f"Checkpoint: {report.parent}" in page.text


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
def test_a_browser_shows_it_on_a_phone_without_an_error(report, tmp_path):
    assert "CONSOLE" not in browse(report, "--dump-dom").stderr
    # A window cannot be that narrow, but a frame can. The page in it runs no script; the outer page reads its width.
    ask = "const d = frames[0]; document.title = [d.innerWidth, d.document.documentElement.scrollWidth].join(' ')"
    page = html.escape(report.read_text(encoding="utf-8").replace("<body>", "<body style='overflow-y: hidden'>"))
    frame = f'<iframe width=360 height=800 frameborder=0 srcdoc="{page}" onload="{html.escape(ask)}"></iframe>'
    (tmp_path / "phone.html").write_text(f"<!DOCTYPE html><title></title>{frame}", encoding="utf-8")
    shown = browse(tmp_path / "phone.html", "--dump-dom").stdout
    assert re.search(r"<title>(.*?)</title>", shown)[1] == "360 360"
