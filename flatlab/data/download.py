"""Fetching a data set from the Hugging Face hub: the only code here that uses the network, and only when called."""

import re
from pathlib import Path

from flatlab import checks
from flatlab.data.cache import writable
from flatlab.data.decode import count_rows
from flatlab.data.errors import DataCorrupt, DownloadFailed
from flatlab.data.registry import ENTRIES, Entry
from flatlab.data.sources import roots, shards

_TIMEOUT = 10.0  # seconds to wait for the hub's answer


def download(name: str, root: str | Path | None = None, *, progress: bool = False) -> Path:
    """Fetch the parquet files of a set into ROOT/ORG/NAME/CONFIG/, where `load_images` finds them; return that folder.

    Files that are there already and unchanged are not fetched again.

    Args:
        name: one of `available()`, except `digits`, which is embedded.
        root: default `$FLATLAB_DATA`, or `data` in the user's cache folder where that is not set.
        progress: show the hub client's progress bars.

    Raises:
        DownloadFailed: if the hub cannot be reached or does not have the files.
        DataCorrupt: if what came is not a complete set.
        PermissionError: if the folder cannot be written.
    """
    checks.one_of("data set", name, ENTRIES)
    entry = ENTRIES[name]
    if not entry.hub:
        raise ValueError(f"{name!r} is embedded and needs no download: load_images({name!r}, 'train') works as it is")
    target = roots(root)[0] / entry.hub
    if not writable(target):
        raise PermissionError(f"{target} cannot be written: name another folder with root= or FLATLAB_DATA")
    try:
        _fetch(entry, target, progress)
    except Exception as error:  # the client lets errors of its HTTP library through, and that has changed over time
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DownloadFailed(
            f"could not fetch {name!r} ({entry.hub}) from the Hugging Face hub: {reason}. Check the network "
            f"(HF_HUB_OFFLINE, HF_ENDPOINT and proxies count), or copy its {entry.config}/*.parquet to {target}"
        ) from error
    folder = target / entry.config
    for split, rows in entry.rows.items():
        found = sum(map(count_rows, shards(folder, split)))
        if found != rows:
            raise DataCorrupt(
                f"{folder} holds {found:,} rows of {split!r} where {rows:,} are expected: delete it and download again"
            )
    return folder


def _fetch(entry: Entry, target: Path, progress: bool) -> None:
    import huggingface_hub
    from huggingface_hub import utils

    shards = re.compile(rf"{re.escape(entry.config)}/({'|'.join(entry.rows)})-\d+-of-\d+\.parquet")
    quiet = not progress and not utils.are_progress_bars_disabled()
    if quiet:
        utils.disable_progress_bars()
    try:
        # Asking for the list first answers within the timeout; fetching a file straight away would retry for long.
        listing = huggingface_hub.HfApi().dataset_info(entry.hub, timeout=_TIMEOUT).siblings or []
        wanted = sorted(file.rfilename for file in listing if shards.fullmatch(file.rfilename))
        if not wanted:
            raise FileNotFoundError(f"the hub has no {entry.config}/*.parquet there any more")
        for filename in wanted:
            huggingface_hub.hf_hub_download(
                entry.hub, filename, repo_type="dataset", local_dir=target, etag_timeout=_TIMEOUT
            )
    finally:
        if quiet:
            utils.enable_progress_bars()
