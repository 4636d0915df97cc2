"""Run the notebooks as a batch: notebooks x parameters x seeds, resumable, on one machine or a cluster.

`run` is the library entry, `python -m flatlab` the command line. Notebooks are known here only as files: their
parameters are read from the cell tagged `parameters`, their claims from the outputs of executed copies.
"""

from flatlab.runner.batch import Event, run
from flatlab.runner.notebooks import StudyError
from flatlab.runner.records import JobResult

__all__ = ["Event", "JobResult", "StudyError", "run"]
