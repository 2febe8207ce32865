"""What runs say, recorded: ingest, events, metrics, logs. Knows nothing of who looks at it."""
