"""A run's settings: the schema of its keys, how files compose, and what a null stands for."""
