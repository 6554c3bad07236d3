-- The workspaces of checkpoints as git bundles. Rows outlive the objects they speak of: a later bundle may build on one.

CREATE TABLE bundles (
    checkpoint_uid TEXT PRIMARY KEY,
    -- 40 hex digits.
    commit_id      TEXT NOT NULL,
    -- The commit that the bundle builds on; absent when it stands alone.
    base_commit    TEXT,
    bytes          BLOB NOT NULL
);
CREATE INDEX bundles_by_commit ON bundles (commit_id);
