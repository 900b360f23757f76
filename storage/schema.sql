-- Schema version 1. Later versions are files of their own, listed in storage/database.py.
-- Everything of one block is written in one transaction (docs/ARCHITECTURE.md section 8).

PRAGMA application_id = 0x6d647063;

-- One row: which ledger this is, how often a node was started on it, and whether it was found to be
-- restored from a backup and has promised nothing since.
CREATE TABLE meta (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    chain_id BLOB NOT NULL,
    boots INTEGER NOT NULL,
    restored INTEGER NOT NULL
);

-- One row a block; genesis has height 0 and neither certificate nor receipts. The large columns are
-- last, so that a header is read without them.
CREATE TABLE block (
    height INTEGER PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    header BLOB NOT NULL,
    certificate BLOB,
    payload BLOB NOT NULL,
    receipts BLOB NOT NULL
);

CREATE TRIGGER block_follows_head BEFORE INSERT ON block
WHEN NEW.height <> COALESCE((SELECT MAX(height) + 1 FROM block), 0)
BEGIN
    SELECT RAISE(ABORT, 'a block must follow the head');
END;

-- Height is NULL until a block lists the batch.
CREATE TABLE batch (
    number INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    author TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    valid_until_height INTEGER NOT NULL,
    height INTEGER
);

CREATE INDEX batch_undecided ON batch (valid_until_height) WHERE height IS NULL;

-- Apart from batch, so that a megabyte is not written again when the batch is decided.
CREATE TABLE batch_body (
    number INTEGER PRIMARY KEY,
    raw BLOB NOT NULL
);

CREATE TABLE transaction_position (
    id BLOB PRIMARY KEY,
    height INTEGER NOT NULL,
    position INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE chain_height (
    chain_id BLOB NOT NULL,
    height INTEGER NOT NULL,
    PRIMARY KEY (chain_id, height)
) WITHOUT ROWID;

CREATE TABLE state_value (
    key BLOB PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE state_node (
    path BLOB PRIMARY KEY,
    node BLOB NOT NULL
) WITHOUT ROWID;

-- What this node has signed at undecided heights. AUTOINCREMENT keeps the number of promises ever
-- made, even of those dropped since: a database that knows fewer than were made is a restored one.
CREATE TABLE promise (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    height INTEGER NOT NULL,
    signed BLOB NOT NULL,
    prepared BLOB,
    block_hash BLOB
);

-- Undecided blocks that promises vouch for.
CREATE TABLE proposal (
    hash BLOB PRIMARY KEY,
    height INTEGER NOT NULL,
    block BLOB NOT NULL
);
