"""Compares what the provider billed with what the gateway's ledger says, attempt by attempt, to the nano-dollar.

For an attempt whose usage the gateway saw (outcome `exact`) the amounts are equal. Every other attempt is flagged by its
outcome; under a Hard budget it lies between the invoice and the hold.
"""

import dataclasses
import math
import pathlib
import sqlite3
import time
from fractions import Fraction

from harness import configuration

# The SQLite copy follows the journal in batches.
COPY_SECONDS = 30
# What is an attempt in the ledger. Counting tokens is one that costs nothing.
BILLED = ("chat_completions", "completions", "embeddings", "messages", "count_tokens")
FLAGGED = ("estimated", "charged", "dropped", "recovered")
HARD_ROLES = ("hard", "poor", "spender")


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A row of the ledger's view `spend`."""

    attempt_id: str
    key: str
    deployment: str
    outcome: str
    nano_usd: int
    held_nano_usd: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int

    def amounts(self):
        return (self.nano_usd, self.input_tokens, self.output_tokens, self.cache_read_tokens, self.cache_write_tokens)

    def is_hard(self):
        return self.key.endswith(HARD_ROLES)


def database(data):
    found = list(pathlib.Path(data).rglob("ledger.sqlite"))
    return found[0] if found else None


def attempts(data):
    """Every attempt that the ledger's SQLite copy has, by id. Names without their namespace."""
    path = database(data)
    if path is None:
        return {}
    columns = [field.name for field in dataclasses.fields(Attempt)]
    # Not as immutable: the gateway is writing.
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=COPY_SECONDS)
    try:
        rows = connection.execute(f"SELECT {', '.join(columns)} FROM spend").fetchall()
    finally:
        connection.close()
    found = {}
    for row in rows:
        named = dict(zip(columns, row))
        for name in ("key", "deployment"):
            named[name] = (named[name] or "").rsplit("/", 1)[-1]
        found[named["attempt_id"]] = Attempt(**named)
    return found


def settled(data, mock):
    """Every attempt so far, as soon as the copy has all that reached the provider; one may still be on its way."""
    mock.wait(in_flight=0)
    deadline = time.monotonic() + COPY_SECONDS
    count = len([row for row in mock.invoice() if row["surface"] in BILLED])
    while len(found := attempts(data)) < count and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def new_attempts(data, before, count):
    """The attempts that are not in `before`, as soon as there are `count` of them."""
    deadline = time.monotonic() + COPY_SECONDS
    while True:
        new = [attempt for at, attempt in attempts(data).items() if at not in before]
        if len(new) >= count or time.monotonic() > deadline:
            return new
        time.sleep(0.05)


def nano_usd(deployment, row):
    """What an invoice row costs at a deployment's prices: summed exactly, rounded up once."""
    if not row["billed"]:
        return 0
    read, written = row["cache_read"], row["cache_write_5m"] + row["cache_write_1h"]
    plain = row["input_tokens"] - read - written
    rates = [
        (plain, deployment.input),
        (read, deployment.cache_read or deployment.input),
        (written, deployment.cache_write or deployment.input),
        (row["output_tokens"], deployment.output),
    ]
    # USD for a million tokens are 1000 nano-dollars for one.
    return math.ceil(sum(tokens * Fraction(rate) * 1000 for tokens, rate in rates))


def billed_amounts(deployment, row):
    written = row["cache_write_5m"] + row["cache_write_1h"]
    return (nano_usd(deployment, row), row["input_tokens"], row["output_tokens"], row["cache_read"], written)


def compare(data, before, invoice):
    """Asserts that the attempts since `before` are those of the invoice."""
    invoice = [row for row in invoice if row["surface"] in BILLED]
    ledger = new_attempts(data, before, len(invoice))
    assert len(ledger) == len(invoice), f"{len(invoice)} attempts reached the provider, the ledger has {len(ledger)}"
    for upstream, deployment in configuration.BY_UPSTREAM.items():
        rows = [row for row in invoice if row["model"] == upstream]
        here = [attempt for attempt in ledger if attempt.deployment == deployment.name]
        compare_deployment(deployment, rows, here)


def compare_deployment(deployment, rows, ledger):
    assert len(rows) == len(ledger), f"{deployment.name}: invoice {rows}\nledger {ledger}"
    unmatched = [billed_amounts(deployment, row) for row in rows]
    for attempt in ledger:
        if attempt.outcome == "exact":
            assert attempt.amounts() in unmatched, f"{deployment.name}: no invoice row for {attempt}; left: {unmatched}"
            unmatched.remove(attempt.amounts())
    for attempt in ledger:
        if attempt.outcome == "released":
            assert attempt.nano_usd == 0, attempt
            free = [amounts for amounts in unmatched if amounts[0] == 0]
            assert free, f"{deployment.name}: released, but the provider billed it: {attempt}; left: {unmatched}"
            unmatched.remove(free[0])
    flagged = [attempt for attempt in ledger if attempt.outcome not in ("exact", "released")]
    assert all(attempt.outcome in FLAGGED for attempt in flagged), flagged
    assert all(attempt.nano_usd <= attempt.held_nano_usd for attempt in flagged if attempt.is_hard()), flagged
    if all(attempt.is_hard() for attempt in flagged):
        # Sorted, each must cover its counterpart: else no assignment of rows to attempts would.
        costs = sorted(amounts[0] for amounts in unmatched)
        for cost, booked in zip(costs, sorted(attempt.nano_usd for attempt in flagged)):
            assert cost <= booked, f"{deployment.name}: billed {cost}, booked {booked} nano-dollars; {flagged}"
