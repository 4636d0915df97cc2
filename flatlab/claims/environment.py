"""Where a run took place: versions, the commit of a checkout, the processor and how much of it was used."""

import importlib.metadata
import platform
import resource
import subprocess
import sys
from pathlib import Path

_PACKAGES = ("flatlab", "torch", "numpy", "scipy", "pandas", "scikit-learn", "foolbox")
_ROOT = Path(__file__).parents[2]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on, the system, and the commit of a checkout."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = _commit(_ROOT / ".git")
    return found | {"system": f"{platform.system()} {platform.machine()}"} | ({"commit": commit} if commit else {})


def environment() -> dict[str, str]:
    """`versions`, and what of the machine may change a number: processor, vector units, threads, memory at its peak.

    A checkout whose package differs from its commit has "changed" after it.
    """
    found = versions()
    if "commit" in found and _changed():
        found["commit"] += ", changed"
    found["processor"] = _processor()
    torch = sys.modules.get("torch")  # whoever has computed something has imported it
    if torch is not None:
        found |= {"vector units": torch.backends.cpu.get_cpu_capability(), "threads": str(torch.get_num_threads())}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return found | {"peak memory": f"{peak / 2**20:.0f} MB"}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _changed() -> bool:
    """Whether git sees changes in the package; not known without git, and then not said."""
    try:
        command = ["git", "-C", str(_ROOT), "status", "--porcelain", "--", "flatlab"]
        return bool(subprocess.run(command, capture_output=True, timeout=10, check=True).stdout.strip())
    except (OSError, subprocess.SubprocessError):
        return False


def _commit(git: Path) -> str:
    """The commit of a checkout, read without git; nothing for an installed copy."""
    try:
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if head.startswith("ref: "):
            head = (git / head.removeprefix("ref: ")).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
    return head[:12]
