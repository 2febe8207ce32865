"""What can be trained and with what: model profiles, datasets, adapters. Knows nothing of jobs."""
