"""Image sets and texts by name, from embedded data or from files in the layout of the hub.

An image set is one uint8 tensor per split, a text (`load_text`) one tensor of character codes.

    from flatlab import data
    train = data.load_images("digits", "train")
    x, y = train.float()

`synonym_task` makes up sentences of a language in which words have synonyms. `density` is one of five densities of the
plane that are known exactly, and `Points` are samples without labels. `corrupt` puts noise, blur and the like on
images.

`digits` ships with scikit-learn and is always there, and so is the text `python_topics`, which ships with Python. The
others are read from the folder that `root=` or `$FLATLAB_DATA` names; images are decoded once into a memory-mapped
cache. `download` is the only function that uses the network. A new image set is one entry in `registry.py`.
"""

from flatlab.data.corruptions import CORRUPTIONS, corrupt
from flatlab.data.densities import DENSITIES, Density, density
from flatlab.data.download import download
from flatlab.data.errors import DataCorrupt, DataNotFound, DownloadFailed
from flatlab.data.images import ImageSet, holdout, noisy_labels
from flatlab.data.load import SplitStatus, load_images, status, verify
from flatlab.data.points import Points
from flatlab.data.registry import available
from flatlab.data.sentences import load_sentences
from flatlab.data.synonyms import SynonymTask, enumerate_substitutions, synonym_task
from flatlab.data.text import TextSet, Windows, load_text

__all__ = [
    "CORRUPTIONS",
    "DENSITIES",
    "DataCorrupt",
    "DataNotFound",
    "Density",
    "DownloadFailed",
    "ImageSet",
    "Points",
    "SplitStatus",
    "SynonymTask",
    "TextSet",
    "Windows",
    "available",
    "corrupt",
    "density",
    "download",
    "enumerate_substitutions",
    "holdout",
    "load_images",
    "load_sentences",
    "load_text",
    "noisy_labels",
    "status",
    "synonym_task",
    "verify",
]
