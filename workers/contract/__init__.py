"""The words the portal and the workers share: specs, events, reasons, names.

Pydantic only. Knows nothing of Django, Celery, Redis, torch, or of the rest of the project.
"""
