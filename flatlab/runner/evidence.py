"""From executed notebooks to what is kept beside the notebooks, and back: recording a run, and recomputing a record.

notebooks/results/<preset>.json                 claims, with the values of every unit
notebooks/results/<preset>/<notebook>/*.png     figures of the recorded run
notebooks/results/README.md                     the full table of all presets
README.md                                       the tally, between its markers
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from flatlab import claims
from flatlab.runner import figures, notebooks
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
        StudyError: no claims there, or a figure that cannot be kept.
        ValueError: claims or records that cannot be read, or a README without markers.
        OSError: a file that cannot be read or written.
    """
    tables, seconds, pictures, lines = [], dict[str, float](), dict[str, dict[str, bytes]](), list[str]()
    texts = [readme.read_text(encoding="utf-8")]
    for path in notebooks.find(folder):
        texts += figures.markdown_texts(notebooks.load(path))
    for result in read_records(out / preset):
        if result.job != result.notebook:
            continue
        if result.state != "done" or not result.output:
            lines.append(f"left out: {result.job} ({result.state})")
            continue
        executed = out / preset / result.output
        if found := claims.from_notebook(notebooks.load(executed)):
            tables += found
            seconds |= {table.paper: result.seconds or 0.0 for table in found}
            shown = figures.shown_figures(texts, preset, result.notebook)
            pictures[result.notebook] = figures.recorded_figures(executed, shown)
    if not tables:
        raise StudyError(
            f"no claims in {out / preset}: run the notebooks first (python -m flatlab run --preset {preset})"
        )
    kept = folder / "results"
    lines.append(f"recorded: {claims.record(tables, preset, kept, seconds=seconds)}")
    for name, made in pictures.items():
        figures.keep_figures(made, kept / preset / name)
        lines.append(f"recorded: {len(made)} figures in {kept / preset / name}")
    everything = claims.recorded(kept)
    renewed = {readme: claims.update_readme(readme, everything)}
    renewed[kept / "README.md"] = claims.update_table(kept, everything)
    return lines + [f"{path}: {'renewed' if changed else 'nothing new'}" for path, changed in renewed.items()]


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
