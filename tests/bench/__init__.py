"""Measurements that print ratios: `make bench SECTION=name` runs tests.bench.<name>. No test, so no threshold here."""
