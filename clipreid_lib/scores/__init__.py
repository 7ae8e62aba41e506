"""From embeddings to numbers: rankings counted, intervals, verification, subgroups, the leaderboard."""
