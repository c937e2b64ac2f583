"""The breakages of the campaign ``sabotage`` can be applied, and its tests exist; the campaign itself takes minutes."""

import re
from collections import Counter

import pytest

from tests.campaigns.sabotage import BREAKAGES, ROOT, Breakage


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: f"{breakage.path}-{breakage.old[:20].strip()}")
def test_each_text_is_once_in_its_file_and_each_test_exists(breakage: Breakage) -> None:
    assert (ROOT / "afa" / breakage.path).read_text().count(breakage.old) == 1
    path, _, name = breakage.test.partition("::")
    assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE)


def test_each_package_is_broken_at_least_twice() -> None:
    counts = Counter(breakage.path.partition("/")[0] for breakage in BREAKAGES)
    packages = {path.parent.name for path in (ROOT / "afa").glob("*/__init__.py")}
    assert packages
    assert all(counts[package] > 1 for package in packages)
