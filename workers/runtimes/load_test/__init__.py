"""The load test: real streaming requests to a launch, more at a time with each step."""
