"""What the queue costs: until a child starts, a claim, a dispatch behind a long queue. On durable PostgreSQL."""
