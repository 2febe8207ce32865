"""What runs say, shown while it happens. Records nothing."""
