"""The project's own files: directions of imports, the two lists of dependencies, and how light an import is."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from flatlab import claims

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "flatlab"

BASE = {"checks", "modes", "names", "streams"}
SUBJECTS = {"attacks", "defenses", "bounds", "ebm", "dg", "gan", "rlhf"}
COMMON = {"data", "models", "flatness", "optim", "train"}
ALLOWED = {
    "names": set(),
    "checks": {"names"},
    "modes": set(),
    "streams": set(),
    "data": BASE,
    "models": BASE,
    "flatness": BASE,
    "optim": BASE,
    "surfaces": BASE,
    "train": BASE | {"data", "models", "flatness", "optim"},
    "stats": {"checks"},
    "claims": {"stats", "checks"},
    "presets": BASE | {"train", "claims", "stats"},
    "plots": BASE | {"stats", "flatness"},
    "study": BASE | {"claims", "stats", "presets", "data"},
    "__main__": {"study"},
    "__init__": set(),
    **dict.fromkeys(SUBJECTS, BASE | COMMON),
}
ALLOWED["defenses"] = ALLOWED["defenses"] | {"attacks"}
ALLOWED["bounds"] = {"checks", "modes", "models", "flatness", "train"}
ALLOWED["studies"] = BASE | COMMON | SUBJECTS | {"claims", "stats"}
ONLY_IN = {
    "papermill": "study", "dask": "study", "distributed": "study", "nbformat": "study", "nbconvert": "study",
    "nbclient": "study", "foolbox": "attacks/foolbox.py", "seaborn": "plots",
}  # fmt: skip


def imports(path: Path) -> list[tuple[str, bool]]:
    """Names of the modules that a file imports, and whether at its top level."""
    tree = ast.parse(path.read_text())
    top = set(map(id, tree.body))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            names = (
                [f"flatlab.{alias.name}" for alias in node.names] if node.module == "flatlab" else [node.module or ""]
            )
            found += [(name, id(node) in top) for name in names]
    return found


def room(path: Path) -> str:
    """The package of flatlab, or the module, that a file belongs to."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    own = room(path)
    for name, top_level in imports(path):
        parts = name.split(".")
        if parts[0] == "flatlab" and len(parts) > 1 and parts[1] != own and parts[1] != "__version__":
            assert parts[1] in ALLOWED[own], f"{own} may not import {name}"
        if parts[0] in ONLY_IN:
            place = ONLY_IN[parts[0]]
            assert place in (own, str(path.relative_to(PACKAGE))), f"only {place} may import {parts[0]}"
        if parts[0] in ("matplotlib", "seaborn") and top_level:
            assert own == "plots", f"only plots may import {parts[0]} at the top of a module"


def requirement(line: str) -> tuple[str, str]:
    """("torch", ">=2.6") from a requirement, with the names that conda gives to some packages translated."""
    match = re.match(r"([A-Za-z0-9_-]+)(?:\[[a-z]+\])?\s*([<>=!~].*)?$", line.strip())
    assert match, line
    name = match[1].lower().replace("_", "-")
    return {"pytorch": "torch", "matplotlib-base": "matplotlib"}.get(name, name), match[2] or ""


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_yml_lists_what_pyproject_lists() -> None:
    meta = project()
    wanted = dict(requirement(r) for r in meta["dependencies"] + meta["optional-dependencies"]["test"])
    wanted |= {"python": meta["requires-python"], "pip": ""}
    text = (ROOT / "environment.yml").read_text()
    lines = [line.split("#") for line in text.splitlines() if re.match(r"\s+- ", line) and "conda-forge" not in line]
    lines = [(line[0].strip(), line) for line in lines if line[0].strip() not in ("- pip:", "- --editable .")]
    assert all(len(parts) == 2 and parts[1].strip() for _, parts in lines), "each line has a comment saying why"
    assert dict(requirement(text.removeprefix("- ")) for text, _ in lines) == wanted


def test_the_lock_pins_everything_exactly_and_names_no_place() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.!]*", line) for line in pins), "exact pins, no '+cpu'"
    names = {line.split("==")[0].lower().replace("_", "-") for line in pins}
    assert not [name for name in names if name.startswith(("nvidia", "cuda", "triton"))]
    meta = project()
    direct = {requirement(r)[0] for r in meta["dependencies"] + meta["optional-dependencies"]["test"]}
    assert direct <= names, f"not pinned: {direct - names}"


@pytest.mark.parametrize("name", ["flatness", "attacks", "defenses", "bounds", "models", "train", "data"])
def test_subject_packages_need_torch_and_numpy_alone(name: str) -> None:
    heavy = "scipy sklearn pandas pyarrow PIL matplotlib seaborn foolbox papermill dask distributed nbformat IPython"
    code = (
        "import sys, torch, numpy\n"
        "before = set(sys.modules)\n"
        f"import flatlab.{name}\n"
        f"print([m for m in {heavy.split()!r} if m in sys.modules and m not in before])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


def test_the_project_speaks_of_itself_alone() -> None:
    """No path of one machine and no package registry in a tracked text file."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    pattern = re.compile(
        "/wo" + "rk/|/ro" + "ot/|py" + r"pi\.(org|python)|files\.python" + "hosted|index-" + "url|find-" + "links"
    )
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".yml", ".lock", ".ipynb", ".json", ""} and path.is_file():
            found = pattern.search(path.read_text(errors="ignore"))
            assert not found, f"{name} names {found and found[0]!r}"


def test_readme_shows_the_recorded_claims(tmp_path):
    readme = shutil.copy(ROOT / "README.md", tmp_path)
    recorded = claims.recorded(ROOT / "notebooks" / "results")
    assert "cpu" in recorded
    assert not claims.update_readme(readme, recorded), "run make record"
