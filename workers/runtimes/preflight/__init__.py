"""Whether a node is ready: the checks of a preflight, one module a noun. Knows nothing of who reads the report."""
