//! Rows of the ledger: accounts, leases, entries. What a limit is, is said elsewhere.
