"""The pure foundation: canonical codec, hashing, keys, institutions, Merkle trees, block header."""
