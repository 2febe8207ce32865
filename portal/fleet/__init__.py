"""What there is to run on: nodes, accelerators, links, as their workers report them. Knows nothing of jobs."""
