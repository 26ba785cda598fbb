"""A thousand passes in flight on one instance of the AI service."""
