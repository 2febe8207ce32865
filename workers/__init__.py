"""The half of Liftoff that runs on a node: worker, supervisor, runtimes, and the contract both halves speak."""
