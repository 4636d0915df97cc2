"""What can be wrong with data on a disk or behind a network."""


class DataNotFound(FileNotFoundError):
    """A data set is known but not under any folder looked at; the message names layout and cure."""


class DataCorrupt(ValueError):
    """A file is damaged, truncated or not what its name says; the message names file and cure."""


class DownloadFailed(ConnectionError):
    """The hub could not be reached, or answered with an error."""
