"""Executed notebooks as HTML: nbconvert's elements in a fraction of its time, remade when what is shown differs."""

import os
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from flatlab.runner import report

WITHOUT_REQUIREJS = "{% extends 'index.html.j2' %}{% block html_head_js_requirejs %}{% endblock %}"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
KERNEL = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}


def notebook(path: Path, *, title: str = "Title", png: str = PIXEL, code: str = "x = '<b>' if 1 < 2 else '&'") -> Path:
    """Write an executed notebook with every kind of output that ours have."""
    table = "<style scoped>td {color: red}</style><table><tr><td>1 &lt; 2</td></tr></table><img src='a.png'>"
    outputs = [
        new_output("stream", text="\x1b[31mred\x1b[0m <plain> & <img src=x>\n"),
        new_output("stream", name="stderr", text="a warning\n"),
        new_output("display_data", data={"image/png": png, "text/plain": "<Figure>"}),
        new_output("display_data", data={"text/html": table, "text/plain": "1"}),
        new_output("execute_result", data={"text/markdown": "**a** $x_1$ & b", "text/plain": "a"}, execution_count=1),
        new_output("error", ename="ValueError", evalue="<no>", traceback=["\x1b[31mValueError\x1b[0m: <no>"]),
    ]
    words = f"# {title}\n\n![drawn](pictures/a.png) and $a < b$\n\n```python\nif a < b: print('<c>')\n```"
    cells = [new_markdown_cell(words), new_code_cell(code, outputs=outputs), new_code_cell("print(1)")]
    nbformat.write(new_notebook(cells=cells, metadata=KERNEL), path)
    return path


class Events(HTMLParser):
    """The elements of a page with their attributes, and its text without blanks; but for the text of pictures."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[Any] = []
        self.words = ""
        self.unnamed = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: " ".join((value or "").split()) for name, value in attrs}
        if "description" in given.get("alt", ""):
            self.unnamed += 1
            del given["alt"]
        self.found.append((tag, given))

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("img", "br", "hr", "meta", "link"):
            self.found.append(tag)

    def handle_data(self, data: str) -> None:
        self.words += "".join(data.split())


def test_a_page_has_the_elements_of_nbconvert(tmp_path: Path) -> None:
    path = notebook(tmp_path / "a.ipynb")
    stock, _ = HTMLExporter(raw_template=WITHOUT_REQUIREJS, embed_images=True).from_filename(str(path))
    ours, theirs = Events(report.export_html(path).read_text(encoding="utf-8")), Events(stock)
    assert ours.found == theirs.found
    assert ours.words == theirs.words
    assert ours.unnamed == theirs.unnamed == 2


def test_a_page_is_remade_when_what_it_shows_differs_and_only_then(tmp_path: Path) -> None:
    picture = tmp_path / "pictures" / "a.png"
    picture.parent.mkdir()
    picture.write_bytes(b"one")
    path = notebook(tmp_path / "a.ipynb")
    page = report.export_html(path)
    first = page.stat()

    os.utime(path)
    assert report.export_html(path).stat().st_ctime_ns == first.st_ctime_ns, "newer, and the same"
    notebook(path, title="Another")
    os.utime(path, ns=(0, 0))
    assert "Another" in report.export_html(path).read_text(encoding="utf-8"), "older, and another"
    whole = page.read_text(encoding="utf-8")
    picture.write_bytes(b"two")
    assert report.export_html(path).read_text(encoding="utf-8") != whole, "a picture that it shows is another"
    whole = page.read_text(encoding="utf-8")
    page.write_text(whole[: len(whole) // 2], encoding="utf-8")
    assert report.export_html(path).read_text(encoding="utf-8") == whole, "half a page is none"


def test_an_odd_notebook_does_not_reach_the_next_page(tmp_path: Path) -> None:
    path = notebook(tmp_path / "a.ipynb")
    expected = report.export_html(path).read_text(encoding="utf-8")
    sound = path.read_text()
    path.write_text(sound.replace('"data": {', '"other": {'))
    with pytest.raises(Exception, match="data"):
        report.export_html(path)
    path.write_text(sound.replace("a warning", "\\ud800"))
    assert "<pre>?\n</pre>" in report.export_html(path).read_text(encoding="utf-8")
    path.write_text(sound)
    assert report.export_html(path).read_text(encoding="utf-8") == expected


def test_many_pages_take_half_the_time_of_nbconvert_at_most(tmp_path: Path) -> None:
    paths = [notebook(tmp_path / f"{i}.ipynb", code="x = [i for i in range(3)]\n" * 20) for i in range(8)]
    report.export_html(notebook(tmp_path / "first.ipynb"))  # what is made once
    ours = theirs = 0.0
    for path in paths:
        start = time.process_time()
        report.export_html(path)
        middle = time.process_time()
        HTMLExporter(raw_template=WITHOUT_REQUIREJS, embed_images=True).from_filename(str(path))
        ours, theirs = ours + middle - start, theirs + time.process_time() - middle
    assert ours < 0.5 * theirs
