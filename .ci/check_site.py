"""check_site.py FOLDER: the built site has every public name and command, no dead link, and needs no other machine."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import jessy_mem
from jessy_mem.cli import COMMANDS

PYTHONS = ("builtins", "collections.abc")  # what comes from there, Python documents


class Page(HTMLParser):
    """The anchors of a page, what it links to, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in ("img", "script", "iframe", "source") and "src" in given:
            self.loads.append(given["src"])
        elif tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload"):
            self.loads.append(given["href"])


def main(folder: str) -> int:
    root = Path(folder).resolve()
    # Not what asv has made, which loads its scripts from other machines, only that it is there.
    paths = [path for path in sorted(root.rglob("*.html")) if not path.is_relative_to(root / "asv")]
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in paths}
    problems = []
    for path, page in pages.items():
        for target in [*page.links, *page.loads]:
            url = urlsplit(target)
            if url.scheme or url.netloc:
                if target in page.loads or url.scheme not in ("https", "http", "mailto"):
                    problems.append(f"{path.name}: {target} is on another machine")
                continue
            there = (path.parent / unquote(url.path)).resolve() if url.path else path
            if not there.is_file():
                problems.append(f"{path.name}: {target} leads nowhere")
            elif there in pages and url.fragment and unquote(url.fragment) not in pages[there].anchors:
                problems.append(f"{path.name}: {target} names no anchor")

    anchors = {anchor for page in pages.values() for anchor in page.anchors}
    wanted = {f"jessy-mem-{name}" for name in COMMANDS}
    for name in jessy_mem.__all__:
        thing = getattr(jessy_mem, name)
        if isinstance(thing, type):
            path = f"jessy_mem.errors.{name}" if issubclass(thing, BaseException) else f"jessy_mem.{name}"
            pythons = {each for base in thing.__mro__ if base.__module__ in PYTHONS for each in dir(base)}
            wanted |= {path, *(f"{path}.{each}" for each in dir(thing) if each[0] != "_" and each not in pythons)}
        elif name != "errors":
            wanted.add(f"jessy_mem.{name}")
    problems += [f"{name} is on no page" for name in sorted(wanted - anchors)]

    listed = re.findall(r"\]\(([^)]+)\)", (root / "llms.txt").read_text(encoding="utf-8"))
    problems += [f"llms.txt: {page} is not there" for page in listed if root / page not in pages]
    problems += ["searchindex.js is not there"] if not (root / "searchindex.js").is_file() else []
    print("\n".join(problems) or f"sound: {len(pages)} pages, {len(wanted)} names")
    return 1 if problems or len(pages) < 25 else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
