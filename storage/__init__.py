"""Durable storage: the ledger, and what this node has promised, in one SQLite file."""
