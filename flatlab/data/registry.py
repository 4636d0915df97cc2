"""The image sets known by name: where they lie, which columns they have, what a complete copy holds.

To add a set, add an entry. Rows and classes are what a loaded split is checked against.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Entry:
    """One image set.

    Attributes:
        hub: its id `ORG/NAME` on the Hugging Face hub; empty where nothing can be downloaded.
        config: the folder of its parquet files there.
        rows: how many images each split holds; empty where that is not known.
        classes: names in the order of the labels.
        channels: 1 or 3, what every image is converted to.
        image, label, domain: names of the parquet columns; `domain` is empty where there are none.
        domains: names of the domains, as they stand in the domain column.
    """

    hub: str
    config: str
    classes: tuple[str, ...]
    channels: int
    rows: Mapping[str, int] = field(default_factory=dict)
    image: str = "image"
    label: str = "label"
    domain: str = ""
    domains: tuple[str, ...] = ()


_DIGITS = tuple("0123456789")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100 = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
"""
# "T-shirt/top" in the original; a slash could not be the name of a class folder.
_FASHION = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_PACS = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")

ENTRIES: dict[str, Entry] = {
    # Embedded in scikit-learn: no files of its own.
    "digits": Entry("", "", _DIGITS, 1, {"train": 1200, "test": 597}),
    "mnist": Entry("ylecun/mnist", "mnist", _DIGITS, 1, {"train": 60_000, "test": 10_000}),
    "fashion_mnist": Entry(
        "zalando-datasets/fashion_mnist", "fashion_mnist", _FASHION, 1, {"train": 60_000, "test": 10_000}
    ),
    "cifar10": Entry("uoft-cs/cifar10", "plain_text", _CIFAR10, 3, {"train": 50_000, "test": 10_000}, image="img"),
    "cifar100": Entry(
        "uoft-cs/cifar100",
        "cifar100",
        tuple(_CIFAR100.split()),
        3,
        {"train": 50_000, "test": 10_000},
        image="img",
        label="fine_label",
    ),
    "svhn": Entry("ufldl-stanford/svhn", "cropped_digits", _DIGITS, 3, {"train": 73_257, "test": 26_032}),
    # The protocols of domain generalization make their own splits out of this one.
    "pacs": Entry(
        "flwrlabs/pacs",
        "data",
        _PACS,
        3,
        {"train": 9_991},
        domain="domain",
        domains=("art_painting", "cartoon", "photo", "sketch"),
    ),
}


def available() -> tuple[str, ...]:
    """Names that `load_images` knows; `digits` is embedded, the others are read from files."""
    return tuple(ENTRIES)
