"""A strict look at an HTML page: what it would fetch or run, and whether it can be read aloud."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """Checks that tags nest and collects what a page would fetch or run."""

    void = frozenset({"meta", "img", "br", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.alts: list[str | None] = []
        self.cells: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        assert not any(name.startswith("on") for name in values)
        if tag == "img":
            self.alts.append(values.get("alt"))
        if tag == "svg":
            assert values["role"] == "img" and values["aria-label"]
        if tag in ("th", "td"):
            self.cells.append((tag, values))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def parsed(text: str) -> Page:
    """The page, checked to be well formed, to fetch and to run nothing."""
    page = Page()
    page.feed(text)
    page.close()
    assert not page.open
    assert not {"script", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    inside = [f"#{name}" for name in page.ids]
    assert all(link.startswith("data:") or link in inside for link in page.links)
    assert "http:" not in text and "https:" not in text and "@import" not in text
    assert "url(" not in text
    assert all(page.alts), "every picture needs a text"
    assert all(values.get("scope") in ("col", "row") for tag, values in page.cells if tag == "th")
    return page
