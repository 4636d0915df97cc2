"""From executed notebooks to what is kept beside the notebooks, and back: recording a run, and recomputing a record.

notebooks/results/<preset>.json                 claims, with the values of every unit
notebooks/results/<preset>/<notebook>/*.png     figures of the recorded run
notebooks/results/README.md                     the full table of all presets
README.md                                       the tally, between its markers
"""

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from flatlab import claims
from flatlab.claims.records import read_folder
from flatlab.runner import figures, notebooks
from flatlab.runner.executed import read_executed
from flatlab.runner.notebooks import StudyError
from flatlab.runner.records import read_records


def record(preset: str, *, out: Path, folder: Path, readme: Path) -> list[str]:
    """Keep claims and figures of the finished runs of a preset, and renew the tables; returns lines for a person.

    Other seeds and parameters are variations and left out: what is kept is the notebook as it is. Nothing is written
    before every claim and figure has been read.

    Args:
        preset: of the runs.
        out: folder of results; the runs are in `out`/`preset`.
        folder: of the notebooks; claims and figures go to `folder`/results.
        readme: whose tally is renewed.

    Raises:
        StudyError: no claims there, a notebook that is not the one of its run's record, a figure that cannot be kept,
            or a record that would lose or keep what it should not: a notebook shows several tables, or one of another
            notebook, or no longer any, or is gone.
        ValueError: claims or records that cannot be read, or a README without markers.
        OSError: a file that cannot be read or written.
    """
    tables, seconds, pictures, lines = [], dict[str, float](), dict[str, dict[str, bytes]](), list[str]()
    texts = [readme.read_text(encoding="utf-8")]
    own, kept = {path.stem: path for path in notebooks.find(folder)}, folder / "results"
    for path in own.values():
        texts += figures.markdown_texts(notebooks.load(path))
    before = _papers(kept, own)
    for result in read_records(out / preset):
        if result.job != result.notebook:
            continue
        if result.state != "done" or not result.output or result.notebook not in own:
            why = result.state if result.notebook in own else f"no notebook of this name in {folder}"
            lines.append(f"left out: {result.job} ({why})")
            continue
        executed = out / preset / result.output
        old = before.get(preset, {}).get(result.notebook, ())
        if table := _table(executed, read_executed(out / preset, result), result.notebook, old):
            tables.append(table)
            if lost := [name for name in old if name not in {claim.id for claim in table.claims}]:
                lines.append(f"no longer claimed by {result.notebook}: {', '.join(lost)}")
            seconds[result.notebook] = result.seconds or 0.0
            shown = figures.shown_figures(texts, preset, result.notebook)
            pictures[result.notebook] = figures.recorded_figures(executed, shown)
    if not tables:
        raise StudyError(
            f"no claims in {out / preset}: run the notebooks first (python -m flatlab run --preset {preset})"
        )
    lines.append(f"recorded: {claims.record(tables, preset, kept, seconds=seconds)}")
    for name, made in pictures.items():
        figures.keep_figures(made, kept / preset / name)
        lines.append(f"recorded: {len(made)} figures in {kept / preset / name}")
    everything = claims.recorded(kept)
    renewed = {readme: claims.update_readme(readme, everything)}
    renewed[kept / "README.md"] = claims.update_table(kept, everything)
    return lines + [f"{path}: {'renewed' if changed else 'nothing new'}" for path, changed in renewed.items()]


def _papers(kept: Path, own: Collection[str]) -> dict[str, dict[str, list[str]]]:
    """Preset -> notebook -> ids of its recorded claims; StudyError if one is not among our `own` notebooks."""
    found = {}
    for preset, content in read_folder(kept)[0].items():
        if gone := sorted(content["papers"].keys() - set(own)):
            raise StudyError(
                f"{kept / preset}.json holds claims of {', '.join(gone)}, and there is no such notebook: bring it "
                "back, or delete its entry from the record"
            )
        found[preset] = {name: [claim["id"] for claim in paper["claims"]] for name, paper in content["papers"].items()}
    return found


def _table(executed: Path, content: dict[str, Any], name: str, old: Sequence[str]) -> claims.ClaimTable | None:
    """The claims of a run of notebook `name`; None if it shows none, and none are recorded of it, by id in `old`.

    StudyError for more than one table, one under another name, or none where there was one.
    """
    try:
        found = claims.from_notebook(content)
    except ValueError as error:
        raise ValueError(f"{executed}: {error}") from error
    if others := sorted({table.paper for table in found} - {name}):
        raise StudyError(
            f"notebook {name} shows claims of {', '.join(others)}: say paper={name!r} in its table, since what is "
            "recorded belongs to the notebook of that name"
        )
    if len(found) > 1:
        raise StudyError(f"notebook {name} shows {len(found)} tables of claims, of which one is recorded: join them")
    if old and not found:
        raise StudyError(
            f"notebook {name} shows no claims, and {len(old)} of it are recorded: show its table again, or delete its "
            "entry from the record"
        )
    return found[0] if found else None


def recompute(files: Sequence[Path]) -> tuple[list[str], int]:
    """Derive every verdict of records again; lines for a person, and the number of claims that differ.

    ValueError or OSError if a file cannot be read, or holds an estimate without the values that it was made from.
    """
    lines, different = list[str](), 0
    for path in files:
        found = claims.recompute(path)
        lines.append(f"{path}:")
        for paper, number in Counter(paper for paper, _ in claims.read_claims(path)).items():
            own = [one for one in found if one.paper == paper]
            end = f"{len({one.id for one in own})} differ" if own else "all as recorded"
            lines.append(f"  {paper}: {number} claims recomputed, {end}")
            lines += [f"    {d.id}: {d.what}\n      recorded    {d.old}\n      recomputed  {d.new}" for d in own]
            different += len({one.id for one in own})
    return lines, different
