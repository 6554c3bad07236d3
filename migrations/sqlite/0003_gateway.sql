-- What the gateway remembers: tokens, the ledger, calls, transcripts. Rows outlive the objects they speak of.

CREATE TABLE tokens (
    -- SHA-256 of the token, hex. The token itself is stored nowhere.
    hash        TEXT PRIMARY KEY,
    machine_uid TEXT NOT NULL,
    namespace   TEXT NOT NULL,
    name        TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX tokens_by_machine ON tokens (machine_uid);

-- Sums of ledger_entries, kept beside them. Money in nano-USD.
CREATE TABLE ledger_accounts (
    account    TEXT PRIMARY KEY,
    money      INTEGER NOT NULL DEFAULT 0,
    reserved   INTEGER NOT NULL DEFAULT 0,
    api_calls  INTEGER NOT NULL DEFAULT 0,
    tokens_in  INTEGER NOT NULL DEFAULT 0,
    tokens_out INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

CREATE TABLE ledger_leases (
    id         TEXT PRIMARY KEY,
    state      TEXT NOT NULL CHECK (state IN ('Open', 'Settled', 'Released', 'Expired')),
    -- The epoch of the process that reserved: an older one is dead.
    epoch      INTEGER NOT NULL,
    -- The accounts from root to leaf and the payee, JSON.
    accounts   TEXT NOT NULL,
    reserved   INTEGER NOT NULL CHECK (reserved >= 0),
    charged    INTEGER NOT NULL DEFAULT 0,
    -- Milliseconds since 1970.
    expires_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX ledger_leases_open ON ledger_leases (expires_at) WHERE state = 'Open';

-- Append-only. Of each posting the entry of the leaf and the one of the payee (the provider) cancel out.
CREATE TABLE ledger_entries (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms      INTEGER NOT NULL,
    lease      TEXT NOT NULL,
    posting    TEXT NOT NULL,
    account    TEXT NOT NULL,
    money      INTEGER NOT NULL,
    reserved   INTEGER NOT NULL,
    api_calls  INTEGER NOT NULL,
    tokens_in  INTEGER NOT NULL,
    tokens_out INTEGER NOT NULL
);
CREATE INDEX ledger_entries_by_lease ON ledger_entries (lease);
CREATE TRIGGER ledger_entries_stay BEFORE UPDATE ON ledger_entries BEGIN SELECT RAISE(ABORT, 'ledger entries are never changed'); END;
CREATE TRIGGER ledger_entries_remain BEFORE DELETE ON ledger_entries BEGIN SELECT RAISE(ABORT, 'ledger entries are never removed'); END;

CREATE TABLE calls (
    seq           INTEGER PRIMARY KEY AUTOINCREMENT,
    id            TEXT NOT NULL UNIQUE,
    machine_uid   TEXT NOT NULL,
    kind          TEXT NOT NULL CHECK (kind IN ('Main', 'Sub', 'Side')),
    session       TEXT NOT NULL,
    turn          INTEGER NOT NULL,
    -- SHA-256 of the body without `stream`, hex: equal for a repeat.
    body_hash     TEXT NOT NULL,
    provider      TEXT NOT NULL,
    model         TEXT NOT NULL,
    price_source  TEXT NOT NULL,
    started_at_ms INTEGER NOT NULL,
    ended_at_ms   INTEGER,
    state         TEXT NOT NULL CHECK (state IN ('Open', 'Settled', 'Refused', 'Cut', 'Failed')),
    status        INTEGER,
    stop_reason   TEXT,
    -- Whether the cost is counted or assumed rather than reported.
    estimated     INTEGER NOT NULL DEFAULT 0,
    usage         TEXT,
    cost          INTEGER,
    detail        TEXT
);
CREATE INDEX calls_by_machine ON calls (machine_uid, kind, seq);
CREATE INDEX calls_open ON calls (seq) WHERE state = 'Open';

CREATE TABLE transcript (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    machine_uid TEXT NOT NULL,
    -- Which message this is, by content and occurrence, so that one is stored once.
    key         TEXT NOT NULL,
    at_ms       INTEGER NOT NULL,
    role        TEXT NOT NULL,
    content     TEXT NOT NULL,
    UNIQUE (machine_uid, key)
);
CREATE INDEX transcript_by_machine ON transcript (machine_uid, seq);
