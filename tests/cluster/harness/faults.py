"""Tells what a fault came to: one line of JSON for `tests/run chaos`, as `tests/faults/src/run.rs` reads it."""

import json
import os

# The file. Tests that run without it tell nobody.
FILE = "TOLLGATE_FAULTS"


def tell(fault, calls, *, limit, billed, counted, false_refusals, unavailable=0, times=1, rows_lost=None):
    """`fault` is an id of `tests/faults/src/list.rs`; amounts are nano-dollars. To be called before what was found is
    asserted, so that the table has it either way."""
    if FILE not in os.environ:
        return
    money = {"limit": limit, "billed": billed, "counted": counted, "false_refusals": false_refusals, "unavailable": unavailable}
    line = json.dumps({"fault": fault, "times": times, "calls": calls, "money": money, "rows_lost": rows_lost})
    # In one write: tests of other suites may run beside this one.
    with open(os.environ[FILE], "a") as file:
        file.write(line + "\n")
