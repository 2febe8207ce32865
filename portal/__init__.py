"""The half of Liftoff that people talk to: web pages, REST, controller, records. Never imports torch."""
