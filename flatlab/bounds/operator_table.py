"""The table of operators on this package's page, README.md, written from the registry.

python -c "from flatlab.bounds import operator_table; operator_table.update()"
"""

from pathlib import Path

from flatlab.bounds.rules import supported

PAGE = Path(__file__).with_name("README.md")
MARKERS = "<!-- supported:begin -->", "<!-- supported:end -->"
HOW = {
    "affine": "exactly, by the transpose that autograd gives; intervals by \\|J\\|",
    "bilinear": "exactly if one factor is constant, else by McCormick's planes",
    "pointwise": "between two lines on the input's interval",
    "reduction": "by lines of their own",
    "composite": "as the operators that they are made of",
}


def supported_table() -> str:
    """A Markdown table: kind, how bounds pass, names in torch.ops.aten."""
    table = supported()
    taken = {name for kind, names in table.items() if kind != "composite" for name in names}
    lines = ["| kind | how bounds pass | operators |", "| --- | --- | --- |"]
    for kind, how in HOW.items():
        names = [n for n in table[kind] if not n.startswith("_") and (kind != "composite" or n not in taken)]
        lines.append(f"| {kind} | {how} | {' '.join(names)} |")
    return "\n".join(lines)


def update(path: Path = PAGE) -> bool:
    """Replace what stands between the markers of the page; True if that changed it."""
    text = path.read_text(encoding="utf-8")
    begin, end = MARKERS
    before, rest = text.split(begin)
    renewed = f"{before}{begin}\n{supported_table()}\n{end}{rest.split(end)[1]}"
    if renewed != text:
        path.write_text(renewed, encoding="utf-8")
    return renewed != text
