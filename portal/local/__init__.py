"""One machine: starts every part under one parent, and runs the demo. Knows nothing of a cluster."""
