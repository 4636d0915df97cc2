"""The embedded set: 1,797 handwritten digits of 8 x 8 pixels, as scikit-learn ships them.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI repository (1998), test part.
A pixel v in 0..16 becomes round(255 v / 16), with halves rounded up, so that bytes mean here what they mean elsewhere.
The map is one to one: v = round(16 x / 255), and x / 255 differs from v / 16 by less than 0.002.
"""

import numpy as np

from flatlab.data.cache import Arrays, checksum
from flatlab.data.errors import DataCorrupt
from flatlab.data.sampling import stratified_rows

TRAIN_ROWS = 1200
CHECKSUM = "069712ee650f96d01ca9d5f6a781bc130aae0b49b3a8e1bf9165787a423c299e"


def load(split: str) -> Arrays:
    """Return x (N, 1, 8, 8) and y of "train" (1200 rows) or "test" (the other 597), stratified by class."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = bunch.images.astype(np.int64)
    everything = Arrays(((pixels * 255 + 8) // 16).astype(np.uint8)[:, None], bunch.target.astype(np.int64))
    if checksum(everything) != CHECKSUM:
        raise DataCorrupt(
            "scikit-learn's digits are not the 1,797 images this study is built on (checksum differs); "
            "reinstall scikit-learn"
        )
    train = np.zeros(len(everything.y), dtype=bool)
    train[stratified_rows(everything.y, TRAIN_ROWS, seed=0)] = True
    rows = train if split == "train" else ~train
    return Arrays(everything.x[rows], everything.y[rows])
