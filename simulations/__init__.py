"""Whole networks in virtual time, drawn from one seed; see docs/ARCHITECTURE.md section 10."""
