"""The project's own files: directions of imports, the two lists of dependencies, and how light an import is."""

import ast
import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "flatlab"

SUBJECTS = {"attacks", "defenses", "bounds", "ebm", "dg", "gan", "rlhf"}
# What each room imports, and may import: base <- data, models, flatness, samplers... <- train <- subjects <- studies.
ALLOWED: dict[str, set[str]] = {
    "names": set(),
    "checks": {"names"},
    "modes": set(),
    "rng": set(),
    "files": set(),
    "data": {"checks", "files"},
    "models": {"checks", "modes"},
    "test_functions": {"checks"},
    "flatness": {"checks", "modes"},
    "samplers": {"checks", "rng"},
    "metrics": {"checks", "files", "models", "modes"},
    "optim": {"checks"},
    "train": {"checks", "files", "modes", "rng", "models", "test_functions"},
    "stats": set(),
    "claims": {"names", "files", "stats"},
    "attacks": {"checks", "modes"},
    "defenses": {"checks", "modes", "rng", "samplers", "train"},
    "bounds": {"checks", "modes", "models", "flatness", "train"},
    "ebm": {"checks", "metrics", "models", "optim", "rng", "samplers", "train"},
    "dg": {"checks", "data", "modes", "rng", "flatness", "optim", "train"},
    "gan": {"checks", "models", "modes", "optim", "rng", "train"},
    "rlhf": {"checks", "modes", "rng", "stats", "data", "models", "train"},
    "studies": {
        "checks",
        "names",
        "claims",
        "stats",
        "data",
        "models",
        "test_functions",
        "flatness",
        "optim",
        "train",
        "attacks",
        "defenses",
        "bounds",
        "ebm",
        "metrics",
        "rlhf",
        "dg",
        "gan",
        "modes",
        "plots",
    },
    "plots": {"flatness"},
    "runner": {"names", "files", "claims", "stats", "data"},
    "__main__": {"runner"},
    "__init__": set(),
}
# The files that may import a module whose name is made up at run time, and why.
DYNAMIC = {"studies/resolve.py": "finds the settings of a study by its name"}
ONLY_IN = {
    "papermill": "runner", "dask": "runner", "distributed": "runner", "nbformat": "runner", "nbconvert": "runner",
    "nbclient": "runner", "foolbox": "attacks/foolbox.py", "seaborn": "plots",
}  # fmt: skip


FILES = sorted(PACKAGE.rglob("*.py"))
every_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))


def imports(path: Path) -> list[tuple[str, bool]]:
    """Names of the modules that a file imports anywhere, also for types alone, and whether at its top level."""
    tree = ast.parse(path.read_text())
    top = set(map(id, tree.body))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.append(
                    (full if node.module == "flatlab" or full in MODULES else str(node.module), id(node) in top)
                )
    return found


def module(path: Path) -> str:
    """The dotted name of a file, that of its folder for an `__init__.py`."""
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def room(path: Path) -> str:
    """The package of flatlab, or the module, that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rooms(path: Path) -> set[str]:
    """The other rooms that a file imports."""
    parts = (name.split(".") for name, _ in imports(path))
    return {part[1] for part in parts if part[0] == "flatlab" and len(part) > 1} - {room(path), "__version__"}


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """The largest sets of modules each of which imports, perhaps by way of others, all the others."""
    reach = {name: set(found) for name, found in graph.items()}
    for middle in graph:
        for found in reach.values():
            if middle in found:
                found |= reach[middle]
    return {frozenset(b for b in reach[a] if a in reach[b]) for a in graph if a in reach[a]}


def dynamic_imports(source: str) -> list[str]:
    """The calls that import a module whose name is a value; `importlib.metadata` and `importlib.resources` do not."""
    tree = ast.parse(source)
    aliases = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in ("importlib", "runpy", "pkgutil", "builtins")
        for alias in node.names
    }
    names = {"__import__", "exec", "eval", *aliases} - {"metadata", "resources"}
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [
        call
        for call in calls
        if call in names or call.endswith((".import_module", ".__import__", ".run_module", ".resolve_name"))
    ]


MODULES = {module(path): path for path in FILES}


@every_file
def test_imports_go_one_way(path: Path) -> None:
    own = room(path)
    assert rooms(path) <= ALLOWED[own], f"{own} may not import {', '.join(sorted(rooms(path) - ALLOWED[own]))}"
    for name, top_level in imports(path):
        parts = name.split(".")
        if parts[0] in ONLY_IN:
            place = ONLY_IN[parts[0]]
            assert place in (own, str(path.relative_to(PACKAGE))), f"only {place} may import {parts[0]}"
        if parts[0] in ("matplotlib", "seaborn") and top_level:
            assert own == "plots", f"only plots may import {parts[0]} at the top of a module"


@pytest.mark.parametrize("own", ALLOWED)
def test_every_direction_that_is_allowed_is_used(own: str) -> None:
    used = [rooms(path) for path in FILES if room(path) == own]
    assert used, f"there is no {own}"
    assert ALLOWED[own] <= set().union(*used), f"{own} does not import all that it may: take it out of the table"


def test_subjects_know_no_other_subject_and_only_studies_know_several() -> None:
    for own, others in ALLOWED.items():
        subjects = others & SUBJECTS
        assert not subjects or own == "studies" or (own, subjects) == ("defenses", {"attacks"})


def test_no_circles_between_files() -> None:
    graph = {name: {other for other, _ in imports(path)} & MODULES.keys() for name, path in MODULES.items()}
    assert sum(map(len, graph.values())) > 200, "found too few imports to believe it"
    assert not circles(graph), "move what both need to a file below them"


def test_a_circle_would_be_found() -> None:
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": set(), "e": {"a", "f"}, "f": {"e"}, "g": {"g"}}
    assert sorted(map(sorted, circles(graph))) == [["a", "b", "c"], ["e", "f"], ["g"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == set()


@every_file
def test_no_dynamic_imports(path: Path) -> None:
    found = dynamic_imports(path.read_text())
    if str(path.relative_to(PACKAGE)) in DYNAMIC:
        assert found, "imports nothing by a name made up at run time: take it off the list"
    else:
        assert not found, f"{found}: import by name, at the top of the file"


def test_a_dynamic_import_would_be_found() -> None:
    assert dynamic_imports("import importlib\nimportlib.import_module('a')") == ["importlib.import_module"]
    assert dynamic_imports("from importlib import import_module as load\nload('a')") == ["load"]
    assert dynamic_imports("import builtins\nbuiltins.__import__('a')\n__import__('b')")[1] == "__import__"
    assert dynamic_imports("from importlib import metadata\nmetadata.version('a')") == []


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


@pytest.mark.parametrize(
    "name",
    [
        "flatness",
        "attacks",
        "defenses",
        "bounds",
        "ebm",
        "dg",
        "models",
        "rlhf",
        "train",
        "data",
        "test_functions",
        "samplers",
        "metrics",
    ],
)
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


def test_changed_rooms_lead_to_their_tests(tmp_path):
    spec = importlib.util.spec_from_file_location("changed", ROOT / "tests" / "changed.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    files = [
        "flatlab/stats/rules.py",
        "flatlab/optim/sam.py",
        "README.md",
        "tests/optim/test_sam.py",
        "flatlab/plots.py",
    ]
    files += [
        "tests/laws/conftest.py",
        "tests/laws/test_defense_laws.py",
        "tests/data/test_text.py",
        "flatlab/gone/x.py",
    ]
    expected = ["tests/stats", "tests/optim", "tests/test_plots.py", "tests/data/test_text.py"]
    assert module.paths_for(files, ROOT) == expected
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git[:3], "init", "-q"], check=True)
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
        subprocess.run([*git, "add", name], check=True)
        subprocess.run([*git, "commit", "-qm", name], check=True)
    assert module.changed(tmp_path) == ["two"]
    (tmp_path / "one").write_text("1")
    (tmp_path / "new").write_text("")
    assert module.changed(tmp_path) == ["one", "new"]


FACES = [*sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")), "plots", "rng", "files"]


@pytest.mark.parametrize("face", FACES)
def test_public_functions_of_three_parameters_explain_them(face: str) -> None:
    """Public is what a room's `__init__` offers; a docstring may say whose arguments they are instead."""
    module = importlib.import_module(f"flatlab.{face}")
    names = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
    unexplained = []
    for name in names:
        thing = getattr(module, name)
        if inspect.isfunction(thing) and thing.__module__.startswith("flatlab"):
            few = len(inspect.signature(thing).parameters) < 3
            if not few and not re.search(r"Args:|arguments\s+are\s+those\s+of|see `\w+`", thing.__doc__ or ""):
                unexplained.append(name)
    assert not unexplained
