-- Tokens of ServiceAccounts, which are found by id and known by hash. One is worth nothing once its account is gone or its time is up.

CREATE TABLE account_tokens (
    -- The part of the token that is no secret, hex.
    id          TEXT PRIMARY KEY,
    -- SHA-256 of the whole token, hex. The token itself is stored nowhere.
    hash        TEXT NOT NULL,
    -- The account as it was when the token was made: a namesake made later has another uid.
    account_uid TEXT NOT NULL,
    namespace   TEXT NOT NULL,
    name        TEXT NOT NULL,
    -- Seconds since 1970.
    expires_at  BIGINT NOT NULL
);
CREATE INDEX account_tokens_by_expiry ON account_tokens (expires_at);
