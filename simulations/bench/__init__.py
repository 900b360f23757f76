"""Real daemons under a measured load: how fast, how costly, and how near the floor they are."""
