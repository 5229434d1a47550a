"""The pages name files that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
PATH = re.compile(
    r"`((?:configs|preprocess|pipeline|tin|launch|cuda|tests|docs|examples)/[\w./-]+\.\w+)`"
)
LINK = re.compile(r"\]\(([^)#:]+?)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_files_that_exist(page):
    text = page.read_text(encoding="utf-8")
    missing = [path for path in PATH.findall(text) if not (ROOT / path).exists()]
    missing += [path for path in LINK.findall(text) if not (page.parent / path).exists()]
    assert not missing, f"{page.name} names {', '.join(missing)}"


def test_the_table_of_changes_has_rows():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.partition("## To change X, open Y")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if PATH.search(line)]
    assert len(rows) >= 25
    assert len({line.split("|")[1] for line in rows}) == len(rows)
