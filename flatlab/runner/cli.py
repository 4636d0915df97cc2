"""The command line, `python -m flatlab`. Imports as little as each command needs: `list` answers at once."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flatlab.files import reason
from flatlab.names import nearest
from flatlab.runner import notebooks, params
from flatlab.runner.batch import run
from flatlab.runner.executed import read_executed
from flatlab.runner.notebooks import StudyError
from flatlab.runner.params import PRESETS
from flatlab.runner.records import read_records
from flatlab.runner.store import store_outputs
from flatlab.runner.terminal import Terminal, claims_summary, table, tally

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130  # of every command alike; see the epilog

_EPILOG = """\
examples:
  python -m flatlab list                        which notebooks there are
  python -m flatlab list 01                     the parameters of one of them
  python -m flatlab run --preset quick          all notebooks, a minute each
  python -m flatlab run 01 --set eps=8/255      one notebook with a parameter of your own
  python -m flatlab run --seeds 5 --workers 2   five seeds each, two notebooks at a time

Results are kept in results/<preset>/. What is done already is not run again, so an interrupted batch goes on
where it stopped; --force runs it anyway. Several batches may share a folder: no job is run by two at a time.

exit codes, of every command:
  0    as asked
  1    it was tried, and failed or differs: a job, a claim, a data set, a file that cannot be read or written
  2    a request that makes no sense as it stands: unknown names or values, or nothing there yet to work on
  130  stopped, by Ctrl-C or SIGTERM
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 1 (it failed), 2 (a senseless request), 130 (stopped)."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return OK
    command: Callable[[argparse.Namespace], int] = options.call
    try:
        with _stopping_cleanly():
            return command(options)
    except StudyError as error:
        return _complain(error, FAILED if isinstance(error, notebooks.NotANotebook) else USAGE)
    except BrokenPipeError:  # `list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        return _complain(error, FAILED)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m flatlab",
        description="A study of flat landscapes: seven papers, one notebook each, every claim with a verdict.",
        epilog=_EPILOG,
        formatter_class=shape,
    )
    commands = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND")

    def add(name: str, call: Callable[[argparse.Namespace], int], summary: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=summary, description=summary, formatter_class=shape)
        command.set_defaults(call=call)
        return command

    listing = add("list", _list, "Show the notebooks, or the parameters of some of them.")
    listing.add_argument("names", nargs="*", metavar="NAME", help="show the parameters of these notebooks")
    _add_notebooks(listing)

    running = add("run", _run, "Run notebooks with a preset, and show what became of their claims.")
    running.add_argument("names", nargs="*", metavar="NAME", help="notebooks, such as 01 (default: all)")
    _add_preset(running, default="cpu", words="default: cpu; notebooks without it are skipped, or refused if named")
    running.add_argument("--seeds", type=int, default=1, metavar="N", help="run each with seed = 0..N-1 (default: 1)")
    running.add_argument(
        "--set",
        dest="parameters",
        action="append",
        type=_assignment,
        default=[],
        metavar="NAME=VALUE",
        help="set a parameter of the notebooks; may be repeated",
    )
    running.add_argument("--device", metavar="DEVICE", help="short for --set device=DEVICE: auto, cpu, cuda")
    running.add_argument("--timeout", type=float, metavar="S", help="seconds for one notebook (default: no limit)")
    running.add_argument("--force", action="store_true", help="run also what is done already")
    running.add_argument(
        "--fail-fast", choices=("yes", "no"), default="no", help="start nothing more after a failure (default: no)"
    )
    _add_out(running)
    _add_notebooks(running)
    several = running.add_argument_group("several at a time")
    several.add_argument("--workers", type=int, default=1, metavar="N", help="notebooks at a time, here (default: 1)")
    several.add_argument("--scheduler", metavar="tcp://HOST:PORT", help="a running dask scheduler to use instead")
    several.add_argument(
        "--resources",
        action="append",
        type=_assignment,
        default=[],
        metavar="NAME=AMOUNT",
        help="what each job takes from a worker of the scheduler, such as GPU=1",
    )

    reporting = add("report", _report, "Rebuild the page of results, results/<preset>/index.html.")
    _add_preset(reporting, default=None, words="default: every preset that has results")
    _add_out(reporting)

    data = add("data", _data, "Show which data sets are here, fetch one, or check one byte by byte.")
    data.add_argument("action", nargs="?", choices=("list", "download", "check"), default="list")
    data.add_argument("name", nargs="?", metavar="NAME", help="the data set to download or check")
    data.add_argument("--root", metavar="DIR", help="folder of the data (default: $FLATLAB_DATA)")

    recording = add(
        "record", _record, "Keep claims and figures of executed notebooks beside the notebooks; renew the tables."
    )
    _add_preset(recording, default="cpu")
    _add_out(recording)
    _add_notebooks(recording)
    recording.add_argument("--readme", default="README.md", metavar="FILE", help="default: README.md")

    checking = add("check", _check, "Compare two runs claim by claim, to the last digit; exit 1 if a verdict differs.")
    for side in ("old", "new"):
        checking.add_argument(
            side, metavar=side.upper(), help="a recorded file (.json), or an executed notebook or more"
        )
    checking.add_argument("--numbers", action="store_true", help="exit 1 also if a digit of an estimate differs")

    again = add(
        "recompute", _recompute, "Derive every recorded verdict from the values of its units; exit 1 if one differs."
    )
    again.add_argument("files", nargs="*", metavar="FILE", help="recorded files (default: all in notebooks/results)")
    _add_notebooks(again)

    storing = add("store", _store, "Put the outputs of executed notebooks into the notebooks themselves.")
    _add_preset(storing, default="quick")
    _add_out(storing)
    _add_notebooks(storing)
    return parser


def _add_preset(parser: argparse.ArgumentParser, *, default: str | None, words: str = "") -> None:
    parser.add_argument("--preset", default=default, help=f"{', '.join(PRESETS)} ({words or f'default: {default}'})")


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="results", metavar="DIR", help="folder of results (default: results)")


def _add_notebooks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--notebooks", default="notebooks", metavar="DIR", help="default: notebooks")


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name.strip() and equals):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name.strip(), value


def _list(options: argparse.Namespace) -> int:
    for path in notebooks.find(options.notebooks, options.names or None):
        if not options.names:
            print(f"{path.stem:<28}  {_title(path)}".rstrip())
            continue
        notebook = notebooks.load(path)
        known = params.of(notebook, path.stem)
        print(f"{path.stem}: {notebooks.title(notebook)}")
        rows = [("name", "type", "default", "")]
        rows += [(p.name, p.annotation, p.default_text, p.help) for p in known.values()]
        print(table(rows, indent="  "), end="\n\n")
    return OK


def _title(path: Path) -> str:
    try:
        return notebooks.title(notebooks.load(path))
    except StudyError as error:
        return f"({error})"


def _run(options: argparse.Namespace) -> int:
    given = dict(options.parameters)
    if options.device is not None:
        given["device"] = options.device
    folder = Path(options.out) / options.preset
    with Terminal() as terminal:
        try:
            results = run(
                options.names or None,
                preset=options.preset,
                seeds=options.seeds,
                parameters=given,
                workers=options.workers,
                scheduler=options.scheduler,
                resources=_amounts(options.resources),
                out=options.out,
                notebooks=options.notebooks,
                timeout=options.timeout,
                force=options.force,
                fail_fast=options.fail_fast == "yes",
                progress=terminal,
            )
        except KeyboardInterrupt:
            terminal.__exit__()
            print(f"interrupted; so far {tally(terminal.results)}. The same command goes on from here.")
            return INTERRUPTED
    summary = claims_summary(results, folder)
    print(f"\n{summary}\n" if summary else "")
    print(*terminal.skipped, tally(results), sep="\n")
    try:
        print(f"page: {_build(folder)}")
    except Exception as error:  # the notebooks are what the user waited for; the page can be built again
        _complain(f"no page ({error}); try again: python -m flatlab report --preset {options.preset}", FAILED)
        return FAILED
    return OK if all(result.ok for result in results) else FAILED


def _amounts(pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    try:
        return {name: float(amount) for name, amount in pairs}
    except ValueError as error:
        raise StudyError(f"resources are NAME=AMOUNT with a number, such as GPU=1: {error}") from error


def _report(options: argparse.Namespace) -> int:
    presets = [_one_of("preset", options.preset, PRESETS)] if options.preset else PRESETS
    folders = [Path(options.out) / preset for preset in presets]
    present = [folder for folder in folders if folder.is_dir()]
    if not present:
        raise StudyError(f"no results in {' or '.join(map(str, folders))}: run some first (python -m flatlab run)")
    for folder in present:
        print(f"page: {_build(folder)}")
    return OK


def _build(folder: Path) -> Path:
    from flatlab.runner.report import build_report

    return build_report(folder)


def _one_of(what: str, name: str, valid: Sequence[str]) -> str:
    if name not in valid:
        choices = f"choose one of {', '.join(valid)}{nearest(name, valid)}"
        raise StudyError(f"unknown {what} {name!r}: {choices}")
    return name


def _data(options: argparse.Namespace) -> int:
    from flatlab import data

    if options.action == "list":
        rows = [("name", "split", "images", "classes", "where")]
        rows += [(s.name, s.split, f"{s.rows:,}", str(s.classes), s.where or "-") for s in data.status(options.root)]
        print(table(rows))
        return OK
    if options.name is None:
        raise StudyError(
            f"which data set? python -m flatlab data {options.action} NAME, one of {', '.join(data.available())}"
        )
    _one_of("data set", options.name, data.available())
    try:
        if options.action == "download":
            print(data.download(options.name, options.root, progress=sys.stderr.isatty()))
            return OK
        for split in [s.split for s in data.status(options.root) if s.name == options.name]:
            print(f"{options.name} {split}: complete, sha256 {data.verify(options.name, split, root=options.root)}")
    except (OSError, ValueError) as error:  # DataNotFound, DataCorrupt, DownloadFailed: the message names the cure
        return _complain(error, FAILED)
    return OK


def _record(options: argparse.Namespace) -> int:
    from flatlab.runner.evidence import record

    preset = _one_of("preset", options.preset, PRESETS)
    out, folder, readme = (Path(place) for place in (options.out, options.notebooks, options.readme))
    try:
        print("\n".join(record(preset, out=out, folder=folder, readme=readme)))
    except StudyError:
        raise
    except (OSError, ValueError) as error:
        return _complain(error, FAILED)
    return OK


def _recompute(options: argparse.Namespace) -> int:
    from flatlab.runner.evidence import recompute

    kept = Path(options.notebooks) / "results"
    files = [Path(name) for name in options.files] or sorted(kept.glob("*.json"))
    if not files:
        raise StudyError(f"no records in {kept}: make one first (python -m flatlab record)")
    try:
        lines, different = recompute(files)
    except (OSError, ValueError) as error:
        return _complain(error, FAILED)
    print("\n".join(lines))
    return FAILED if different else OK


def _check(options: argparse.Namespace) -> int:
    from flatlab import claims

    try:
        old, new = claims.read_claims(options.old), claims.read_claims(options.new)
    except (OSError, ValueError) as error:
        return _complain(error, FAILED)
    found = claims.compare(old, new)
    for one in found:
        print(f"{one.paper} {one.id}: {one.what}\n  old  {one.old}\n  new  {one.new}")
    digits = sum(one.what == "numbers" for one in found)
    same = len((old.keys() & new.keys()) - {(one.paper, one.id) for one in found})
    print(
        f"{same} claims the same to the last digit, {digits} differences in numbers only, {len(found) - digits} others"
    )
    return FAILED if len(found) > (0 if options.numbers else digits) else OK


def _store(options: argparse.Namespace) -> int:
    folder = Path(options.out) / _one_of("preset", options.preset, PRESETS)
    names, _ = params.having(options.preset, options.notebooks)
    own = {path.stem: path for path in notebooks.find(options.notebooks, names)}
    ready = {record.job: record for record in read_records(folder) if record.ok and record.output}
    if missing := sorted(own.keys() - ready.keys()):
        raise StudyError(
            f"no finished run of {', '.join(missing)} in {folder}: python -m flatlab run --preset {options.preset}"
        )
    for name in own:
        read_executed(folder, ready[name])
    for name, path in own.items():
        print(f"stored: {store_outputs(path, folder / str(ready[name].output))}")
    return OK


def _complain(message: object, code: int) -> int:
    print(f"error: {reason(message) if isinstance(message, OSError) else message}", file=sys.stderr)
    return code


@contextmanager
def _stopping_cleanly() -> Iterator[None]:
    """SIGTERM stops as Ctrl-C does, and a second signal does not disturb the tidying up that the first one set off."""

    def stop(number: int, frame: Any) -> None:
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {name: signal.signal(name, stop) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
