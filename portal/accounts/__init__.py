"""Who may do what: API tokens and the audit log. Knows nothing of jobs, models or nodes."""
