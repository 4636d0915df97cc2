"""Notebooks as files: titles and headings."""

from flatlab.runner import notebooks


def markdown(*lines):
    return {"cell_type": "markdown", "source": "\n".join(lines)}


def test_the_title_is_the_first_heading_as_plain_text():
    code = {"cell_type": "code", "source": "# no heading"}
    first = markdown("Before", "```sh", "# a comment", "```", "# *Flat* `minima`, see [there](page.html) #", "## More")
    book = {"cells": [code, first, markdown("# Another")]}
    assert notebooks.headings(first) == ["Flat minima, see there", "More"]
    assert notebooks.headings(code) == []
    assert notebooks.title(book) == "Flat minima, see there"
    assert notebooks.title({"cells": [code, markdown("text alone")]}) == ""
