"""The documentation holds together: links, anchors, and that each page can be found."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from afa.command_line import main
from afa.config.settings import RELEASED_METHODS
from afa.method.catalogue import METHODS, RECIPES

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "demo/README.md"])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What a link may name after ``#``: headings as GitHub spells them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    return LINK.findall(CODE.sub("", page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in links(page):
        place, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", place):
            assert place.startswith(("https:", "http:")), link
            continue
        target = page.parent / place if place else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_linked_from_the_readme():
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(ROOT / "README.md")}
    missing = [page.name for page in ROOT.glob("docs/*.md") if page.resolve() not in linked]
    assert not missing


def test_the_config_for_another_backbone_starts(words, tmp_path, capsys):
    text = (ROOT / "docs/your-own-backbone.md").read_text(encoding="utf-8")
    config = tmp_path / "resnet18.hocon"
    config.write_text(re.search(r"```hocon\n(.*?)```", text, re.DOTALL)[1])
    shutil.copytree(ROOT / "hocon_config/shared", tmp_path / "shared")
    torch.save(resnet18().state_dict(), tmp_path / "weights.pth")
    # Random weights and the config's learning rate can diverge within the dry run's steps.
    own = [f"source_weights={tmp_path / 'weights.pth'}", "lr=0.0001", "dry_run=true"]
    assert main([str(config), *words, *own]) == 0
    assert "layer2.1.conv2  128       4 x 4" in capsys.readouterr().out


def test_the_table_of_methods_has_all_of_them_under_both_names():
    rows = (ROOT / "docs/methods.md").read_text(encoding="utf-8").splitlines()
    named = {row.split("|")[1].strip(" `"): row for row in rows if row.startswith("| `")}
    assert set(named) == {"reg_type", *METHODS, *RECIPES}
    assert all(f"`{released}`" in named[ours] for released, ours in RELEASED_METHODS.items())


def test_the_map_of_contributing_names_every_module():
    named, folder = set(), ""
    for line in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\| \*\*`(afa/[\w/]*)`\*\*", line):
            folder = match[1]
        elif match := re.match(r"\| `([\w.]+\.py)`", line):
            named.add(folder + match[1])
    files = {str(path.relative_to(ROOT)) for path in ROOT.glob("afa/**/*.py") if path.name != "__init__.py"}
    assert named == files
