"""Public configs of well-known models, as data: the fields that shapes follow from, with their source."""
