"""What a node runs for a job, in a process of its own: `python -m workers.runtimes RUN_DIR`.

Reads an order, writes events and files. Knows nothing of Celery, Redis or Django, nor of who started it.
"""
