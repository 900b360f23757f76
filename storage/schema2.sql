-- Schema version 2: the seal of storage/seal.py, a digest over head, starts and promises.

ALTER TABLE meta ADD COLUMN seal BLOB NOT NULL DEFAULT x'' CHECK (typeof(seal) = 'blob');
