"""PBFT classified by institution type; see docs/ARCHITECTURE.md sections 3 and 4."""
