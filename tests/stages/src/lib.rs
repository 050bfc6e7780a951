//! Nothing but tests: see `tests/`. Each file is one side of the gateway as its users see it; every test starts its own
//! gateway on a free port, and every test that spends ends with the ledger equal to the provider's invoice.
#![forbid(unsafe_code)]
