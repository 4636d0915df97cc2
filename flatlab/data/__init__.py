"""Image sets by name: one uint8 tensor per split, from embedded data, hub-layout parquet files or class folders.

    from flatlab import data
    train = data.load_images("digits", "train")
    x, y = train.float()

`digits` ships with scikit-learn and is always there. The other sets are read from the folder that `root=` or
`$FLATLAB_DATA` names, and decoded once into a memory-mapped cache. `download` is the only function that uses the
network. A new image set is one entry in `registry.py`.
"""

from flatlab.data.download import download
from flatlab.data.errors import DataCorrupt, DataNotFound, DownloadFailed
from flatlab.data.images import ImageSet, holdout
from flatlab.data.load import SplitStatus, load_images, status, verify
from flatlab.data.registry import available

__all__ = [
    "DataCorrupt",
    "DataNotFound",
    "DownloadFailed",
    "ImageSet",
    "SplitStatus",
    "available",
    "download",
    "holdout",
    "load_images",
    "status",
    "verify",
]
