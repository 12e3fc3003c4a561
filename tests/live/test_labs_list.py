"""The page's list of labs is that of the documentation, and every explanation and scene links to one of them."""

import re
from pathlib import Path

from shapedreamer.labs.source import read_labs
from shapedreamer.live.site import PAGE

DOCS = Path(__file__).parents[2] / "docs" / "labs.md"


def test_the_page_lists_every_lab_as_the_documentation_does() -> None:
    source = (PAGE / "views" / "labs.js").read_text()
    found = re.findall(r'title: "([^"]*)",\s+about: "([^"]*)"', source)
    table = re.findall(r"^\| (\d+)\. ([^|]*) \| ([^|]*) \|", DOCS.read_text(), re.MULTILINE)
    assert [number for number, _, _ in table] == [
        str(lab.number) for lab in sorted(read_labs(), key=lambda x: x.number)
    ]
    assert found == [(title, about.replace("$", "")) for _, title, about in table]


def test_links_lead_to_labs_that_exist() -> None:
    numbers = {lab.number for lab in read_labs()}
    for name in ("explain.js", "tour.js"):
        links = [int(number) for number in re.findall(r"\blab: (\d+)", (PAGE / "views" / name).read_text())]
        assert len(links) >= 8
        assert set(links) <= numbers
