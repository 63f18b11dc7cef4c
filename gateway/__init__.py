"""The server: HTTP in, jobs in Redis, wake-ups and results out."""
