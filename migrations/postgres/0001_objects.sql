-- Objects as JSON documents, the log of their changes, and what this installation is. Texts are ordered by their bytes, as in SQLite.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

-- The epoch rises with every process that takes the store over; a writer of an older epoch is refused.
INSERT INTO meta (key, value) VALUES ('epoch', '0');
-- History up to and including this revision was removed.
INSERT INTO meta (key, value) VALUES ('compacted', '0');

-- One row: the newest revision. Who writes locks it until the commit, so that commits follow revisions.
CREATE TABLE revisions (
    number BIGINT NOT NULL
) WITH (fillfactor = 10);
INSERT INTO revisions (number) VALUES (0);
CREATE FUNCTION next_revision() RETURNS BIGINT LANGUAGE sql VOLATILE
    AS 'UPDATE revisions SET number = number + 1 RETURNING number';

-- The last transaction of every process that writes: one whose answer was lost can be looked up.
CREATE TABLE writers (
    writer UUID PRIMARY KEY,
    batch  BIGINT NOT NULL,
    at     TIMESTAMPTZ NOT NULL DEFAULT now()
) WITH (fillfactor = 10);

-- Documents stand without metadata.resourceVersion: it is the revision.
CREATE TABLE objects (
    resource  TEXT COLLATE "C" NOT NULL,
    namespace TEXT COLLATE "C" NOT NULL,
    name      TEXT COLLATE "C" NOT NULL,
    revision  BIGINT NOT NULL,
    document  TEXT NOT NULL,
    PRIMARY KEY (resource, namespace, name)
);

CREATE TABLE log (
    revision          BIGINT PRIMARY KEY DEFAULT next_revision(),
    change            TEXT NOT NULL CHECK (change IN ('Added', 'Modified', 'Deleted')),
    resource          TEXT COLLATE "C" NOT NULL,
    namespace         TEXT COLLATE "C" NOT NULL,
    name              TEXT COLLATE "C" NOT NULL,
    document          TEXT NOT NULL,
    previous          TEXT,
    previous_revision BIGINT,
    at_seconds        BIGINT NOT NULL
);
CREATE INDEX log_by_resource ON log (resource, revision);
CREATE INDEX log_by_key ON log (resource, namespace, name, revision);
