-- Objects as JSON documents, the log of their changes, and what this installation is.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- The epoch rises with every process that takes the store over; a writer of an older epoch is refused.
INSERT INTO meta (key, value) VALUES ('epoch', '0');
-- History up to and including this revision was removed.
INSERT INTO meta (key, value) VALUES ('compacted', '0');

-- Documents stand without metadata.resourceVersion: it is the revision.
CREATE TABLE objects (
    resource  TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name      TEXT NOT NULL,
    revision  INTEGER NOT NULL,
    document  TEXT NOT NULL,
    PRIMARY KEY (resource, namespace, name)
);

-- AUTOINCREMENT: a revision is never given twice, also after the tail was removed.
CREATE TABLE log (
    revision          INTEGER PRIMARY KEY AUTOINCREMENT,
    change            TEXT NOT NULL CHECK (change IN ('Added', 'Modified', 'Deleted')),
    resource          TEXT NOT NULL,
    namespace         TEXT NOT NULL,
    name              TEXT NOT NULL,
    document          TEXT NOT NULL,
    previous          TEXT,
    previous_revision INTEGER,
    at_seconds        INTEGER NOT NULL
);
CREATE INDEX log_by_resource ON log (resource, revision);
CREATE INDEX log_by_key ON log (resource, namespace, name, revision);
