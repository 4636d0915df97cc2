"""What a notebook asserts: claims with their verdicts, shown to a person and recorded for a machine.

`ClaimTable` is the last thing a notebook displays. One display carries three forms of the same table:

    text/plain                              id, verdict, statement: no numbers, so that two runs can be compared
    text/html                               the table a person reads, with the verdicts recorded for other presets
    application/vnd.flatlab.claims+json     ids, statements, rules, verdicts: stable, compared by the regression test

The measured numbers, the preset and the environment travel in the output's metadata under the third name.
`record` collects the tables of one preset in one file, `load_recorded` finds those files again, `recompute` derives
their verdicts from the values of the units in them, and `reading` fills their numbers into prose.
"""

from flatlab.claims.claim import Change, Claim
from flatlab.claims.compare import Difference, compare, read_claims, recompute
from flatlab.claims.environment import environment, versions
from flatlab.claims.markdown import full_table, tally, update_readme, update_table
from flatlab.claims.prose import Reading, reading
from flatlab.claims.records import load_recorded, record, recorded
from flatlab.claims.table import MIME, ClaimTable, from_notebook

__all__ = [
    "MIME",
    "Change",
    "Claim",
    "ClaimTable",
    "Difference",
    "Reading",
    "compare",
    "environment",
    "from_notebook",
    "full_table",
    "load_recorded",
    "read_claims",
    "reading",
    "recompute",
    "record",
    "recorded",
    "tally",
    "update_readme",
    "update_table",
    "versions",
]
