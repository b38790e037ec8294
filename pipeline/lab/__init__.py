"""The laboratory: what a run was worth, on pages for people."""
