-- Version 2: other tables in place of transaction_position, chain_height and state_node, which
-- storage/derived.py copies and drops.

-- The places of transactions and the heights of chains, as storage/runs.py says. In a run the pages
-- lie in the order of their first rows; the runs lie in the order of their numbers.
CREATE TABLE run (
    number INTEGER PRIMARY KEY,
    height INTEGER NOT NULL CHECK (typeof(height) = 'integer'),
    rows INTEGER NOT NULL CHECK (typeof(rows) = 'integer')
);

CREATE TABLE page (
    number INTEGER PRIMARY KEY,
    run INTEGER NOT NULL CHECK (typeof(run) = 'integer'),
    first BLOB NOT NULL CHECK (typeof(first) = 'blob'),
    rows BLOB NOT NULL CHECK (typeof(rows) = 'blob'),
    UNIQUE (run, first)
);

-- Nodes by the numbers of storage/places.py, and those whose paths are too long for that.
CREATE TABLE node (
    place INTEGER PRIMARY KEY,
    node BLOB NOT NULL CHECK (typeof(node) = 'blob')
);

CREATE TABLE deep_node (
    path BLOB PRIMARY KEY CHECK (typeof(path) = 'blob'),
    node BLOB NOT NULL CHECK (typeof(node) = 'blob')
) WITHOUT ROWID;
