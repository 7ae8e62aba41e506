"""Runs: the stages bound to folders, params and notebooks; one run, many runs, a cluster."""
