"""Backup and restore: database and artifacts in one file that either engine reads. Knows nothing of who asks."""
