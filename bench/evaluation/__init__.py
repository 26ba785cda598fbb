"""Scores a provider and model on annotated documents."""
