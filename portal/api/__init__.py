"""REST: parse, call a service or a selector, answer. Holds no rule of its own."""
