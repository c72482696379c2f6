"""HTML as a test reads it."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = ("br", "img", "meta", "link", "input")


class Page(HTMLParser):
    """What a page consists of; an error where an element is closed that is not open."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.words, self.open = [], [], "", []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data
