"""From embeddings to numbers: rankings counted, intervals, verification, who it fails, the leaderboard."""
