-- Schema version 3: what can be derived from the blocks is in a file of its own (derived.sql).

DROP TABLE transaction_position;
DROP TABLE chain_height;
DROP TABLE state_value;
DROP TABLE state_node;
