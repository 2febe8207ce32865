"""One router a noun: parse, call a service or selector, answer."""
