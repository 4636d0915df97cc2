"""An executed notebook as one HTML page, several times faster than by nbconvert's own exporter.

The elements of the page are nbconvert's. One exporter serves all notebooks, so that its templates are compiled once;
highlighted code, of which Pygments has escaped all there is, is not cleaned again; and the page, which may hold
megabytes, is not parsed to set two attributes.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

from nbconvert import HTMLExporter
from nbconvert.exporters import TemplateExporter
from nbconvert.filters import Highlight2HTML
from nbconvert.filters.widgetsdatatypefilter import WidgetsDataTypeFilter

_TEMPLATE = """\
{% extends 'index.html.j2' %}
{% block html_head_js_requirejs %}{% endblock %}
{% block input %}
<div class="jp-CodeMirrorEditor jp-Editor jp-InputArea-editor" data-type="inline">
<div class="cm-editor cm-s-jupyter">{{ cell.source | highlight_code(metadata=cell.metadata) }}</div>
</div>
{% endblock %}
"""
_UNNAMED = re.compile(r"<img(?=[\s/>])(?![^>]*\salt=)")
_WIDE = re.compile(r'<div class="[^"]*\bjp-(?:Cell-inputWrapper|OutputArea-output)\b[^"]*"')


class Exporter(HTMLExporter):
    """nbconvert's exporter without what costs most of its time."""

    def from_notebook_node(  # type: ignore[override]
        self, nb: Any, resources: Any = None, **options: Any
    ) -> tuple[str, Any]:
        """The page of a notebook and nbconvert's resources; pictures have a text, and what may scroll takes the focus.

        Args:
            nb: the notebook.
            resources: of nbconvert; name and path of the notebook are in its "metadata".
            options: of nbconvert.
        """
        resources = self._init_resources(resources)
        fitting = WidgetsDataTypeFilter(notebook_metadata=self._nb_metadata, parent=self, resources=resources)
        self.register_filter("filter_data_type", fitting)
        self.register_filter("highlight_code", Highlight2HTML(pygments_lexer="ipython3", parent=self))
        page, resources = TemplateExporter.from_notebook_node(self, nb, resources, **options)
        page = _UNNAMED.sub('<img alt="picture without a description"', page)
        return _WIDE.sub(r'\g<0> tabindex="0"', page), resources


def to_html(notebook: Path) -> str:
    """The page of an executed notebook; the pictures that it shows are part of it."""
    return str(_exporter().from_filename(str(notebook))[0])


@cache
def _exporter() -> Exporter:
    return Exporter(raw_template=_TEMPLATE, embed_images=True)
