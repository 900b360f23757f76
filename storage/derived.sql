-- Version 1 of the derived file: what follows from the blocks of the ledger's file, up to one
-- height, so that it can be made again from them. storage/derived.py says how it is written.

PRAGMA application_id = 0x6d647064;

-- One row: which ledger, and up to which block.
CREATE TABLE meta (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    chain_id BLOB NOT NULL CHECK (typeof(chain_id) = 'blob'),
    height INTEGER NOT NULL CHECK (typeof(height) = 'integer'),
    hash BLOB NOT NULL CHECK (typeof(hash) = 'blob')
);

-- In the order in which keys came, so that new ones share a page, and only their index is random.
CREATE TABLE state_value (
    number INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE CHECK (typeof(key) = 'blob'),
    value BLOB NOT NULL CHECK (typeof(value) = 'blob')
);

CREATE TABLE state_node (
    path BLOB PRIMARY KEY CHECK (typeof(path) = 'blob'),
    node BLOB NOT NULL CHECK (typeof(node) = 'blob')
) WITHOUT ROWID;

-- Both hold the first 16 bytes of an id: whoever wants two ids that agree in them has to make 2^64.
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
