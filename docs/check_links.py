"""Checks the links of the documentation.

    python docs/check_links.py [SITE]

prints every broken link, and exits with 1 if there is one.

Markdown (README.md, CONTRIBUTING.md, docs/): every relative link leads to a file, and every #anchor to a heading.
HTML (in the folder SITE): every internal link leads to a file and to an anchor in it. A fragment such as #view=draw is
not an anchor: it holds settings for the live page. Pages load nothing from another host, so the site works without a
network.
"""

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
SETTINGS = re.compile(r"[a-z]+=[^&]*(&[a-z]+=[^&]*)*")
LOADED = {("img", "src"), ("script", "src"), ("iframe", "src"), ("link", "href"), ("source", "src"), ("use", "href")}


def main() -> int:
    broken = list(broken_markdown_links([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")]))
    for site in sys.argv[1:]:
        broken += broken_html_links(Path(site))
    print("\n".join(broken) or "All links work.")
    return 1 if broken else 0


def broken_markdown_links(files: list[Path]) -> Iterator[str]:
    for file in files:
        for target in _markdown_links(file.read_text(encoding="utf-8")):
            url = urlsplit(target)
            path = (file.parent / unquote(url.path)) if url.path else file
            if url.scheme:
                continue
            if not path.exists():
                yield f"{file}: there is no {target}"
            elif url.fragment and path.suffix == ".md" and unquote(url.fragment) not in _headings(path):
                yield f"{file}: {path.name} has no heading for #{url.fragment}"


def broken_html_links(site: Path) -> Iterator[str]:
    pages = {path.resolve(): _Page(path) for path in site.rglob("*.html")}
    for path, page in pages.items():
        for tag, attribute, target in page.links:
            url = urlsplit(target)
            if url.scheme or url.netloc:
                if (tag, attribute) in LOADED and url.scheme != "data":
                    yield f"{path}: <{tag}> loads {target} from another host"
                continue
            linked = (path.parent / unquote(url.path)).resolve() if url.path else path
            linked = linked / "index.html" if linked.is_dir() else linked
            if not linked.is_file():
                yield f"{path}: there is no {target}"
            elif (
                url.fragment
                and linked in pages
                and not SETTINGS.fullmatch(url.fragment)
                and unquote(url.fragment) not in pages[linked].anchors
            ):
                yield f"{path}: {linked.name} has no anchor #{url.fragment}"
    for path in site.rglob("*.css"):
        for target in re.findall(r"url\(\s*[\"']?([^\"')]+)", path.read_text(encoding="utf-8")):
            url = urlsplit(target)
            if url.scheme != "data" and (url.scheme or not (path.parent / unquote(url.path)).is_file()):
                yield f"{path}: there is no {target} on this host"


def _markdown_links(text: str) -> list[str]:
    return re.findall(r"\]\(<?([^)>\s]+)>?(?:\s+\"[^\"]*\")?\)", re.sub(r"`+[^`\n]*`+", "", _without_code(text)))


def _headings(path: Path) -> set[str]:
    """The anchors of the headings in a Markdown file, as GitHub and MyST make them."""
    titles = re.findall(r"^#+ +(.+?) *#*$", _without_code(path.read_text(encoding="utf-8")), flags=re.MULTILINE)
    slugs: list[str] = []
    for title in titles:
        slug = re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
        repeated = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", other) is not None for other in slugs)
        slugs.append(f"{slug}-{repeated}" if repeated else slug)
    return set(slugs)


def _without_code(text: str) -> str:
    """The text without fenced and indented code blocks."""
    return re.sub(r"^ *(```+|~~~+).*?^ *\1 *$|^(?: {4}|\t)[^\n]*$", "", text, flags=re.MULTILINE | re.DOTALL)


class _Page(HTMLParser):
    """links: (tag, attribute, target); anchors: the ids and names that a link can lead to"""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[tuple[str, str, str]] = []
        self.anchors = {"top"}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src"):
                self.links.append((tag, name, value or ""))
            elif name == "id" or (name == "name" and tag == "a"):
                self.anchors.add(value or "")


if __name__ == "__main__":
    sys.exit(main())
