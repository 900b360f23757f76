-- Schema version 1. Later versions are files of their own, listed in storage/schema.py.
-- Everything of one block is written in one transaction (docs/ARCHITECTURE.md section 8). The types
-- are checked so that `medpact verify` can rely on them in a damaged file as well.

PRAGMA application_id = 0x6d647063;

-- One row: which ledger this is, how often a node was started on it, and whether it was found to be
-- restored from a backup and has promised nothing since.
CREATE TABLE meta (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    chain_id BLOB NOT NULL CHECK (typeof(chain_id) = 'blob'),
    boots INTEGER NOT NULL CHECK (typeof(boots) = 'integer' AND boots >= 0),
    restored INTEGER NOT NULL CHECK (restored IN (0, 1))
);

-- One row a block; genesis has height 0 and no certificate. The large columns are last, so that a
-- header is read without them.
CREATE TABLE block (
    height INTEGER PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE CHECK (typeof(hash) = 'blob'),
    header BLOB NOT NULL CHECK (typeof(header) = 'blob'),
    certificate BLOB CHECK (typeof(certificate) IN ('blob', 'null')),
    payload BLOB NOT NULL CHECK (typeof(payload) = 'blob'),
    receipts BLOB NOT NULL CHECK (typeof(receipts) = 'blob')
);

CREATE TRIGGER block_follows_head BEFORE INSERT ON block
WHEN NEW.height <> COALESCE((SELECT MAX(height) + 1 FROM block), 0)
BEGIN
    SELECT RAISE(ABORT, 'a block must follow the head');
END;

-- Height is NULL until a block lists the batch.
CREATE TABLE batch (
    number INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE CHECK (typeof(id) = 'blob'),
    author TEXT NOT NULL CHECK (typeof(author) = 'text'),
    sequence INTEGER NOT NULL CHECK (typeof(sequence) = 'integer'),
    valid_until_height INTEGER NOT NULL CHECK (typeof(valid_until_height) = 'integer'),
    height INTEGER CHECK (typeof(height) IN ('integer', 'null'))
);

CREATE INDEX batch_undecided ON batch (valid_until_height) WHERE height IS NULL;

-- Apart from batch, so that a megabyte is not written again when the batch is decided.
CREATE TABLE batch_body (
    number INTEGER PRIMARY KEY,
    raw BLOB NOT NULL CHECK (typeof(raw) = 'blob')
);

CREATE TABLE transaction_position (
    id BLOB PRIMARY KEY CHECK (typeof(id) = 'blob'),
    height INTEGER NOT NULL CHECK (typeof(height) = 'integer'),
    position INTEGER NOT NULL CHECK (typeof(position) = 'integer')
) WITHOUT ROWID;

CREATE TABLE chain_height (
    chain_id BLOB NOT NULL CHECK (typeof(chain_id) = 'blob'),
    height INTEGER NOT NULL CHECK (typeof(height) = 'integer'),
    PRIMARY KEY (chain_id, height)
) WITHOUT ROWID;

CREATE TABLE state_value (
    key BLOB PRIMARY KEY CHECK (typeof(key) = 'blob'),
    value BLOB NOT NULL CHECK (typeof(value) = 'blob')
) WITHOUT ROWID;

CREATE TABLE state_node (
    path BLOB PRIMARY KEY CHECK (typeof(path) = 'blob'),
    node BLOB NOT NULL CHECK (typeof(node) = 'blob')
) WITHOUT ROWID;

-- What this node has signed at the undecided height. AUTOINCREMENT keeps the number of promises ever
-- made, even of those dropped since: a database that knows fewer than were made is a restored one.
CREATE TABLE promise (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    height INTEGER NOT NULL CHECK (typeof(height) = 'integer'),
    signed BLOB NOT NULL CHECK (typeof(signed) = 'blob'),
    prepared BLOB CHECK (typeof(prepared) IN ('blob', 'null')),
    block_hash BLOB CHECK (typeof(block_hash) IN ('blob', 'null'))
);

-- Undecided blocks that promises vouch for.
CREATE TABLE proposal (
    hash BLOB PRIMARY KEY NOT NULL CHECK (typeof(hash) = 'blob'),
    height INTEGER NOT NULL CHECK (typeof(height) = 'integer'),
    block BLOB NOT NULL CHECK (typeof(block) = 'blob')
);
