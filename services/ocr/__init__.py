"""Uploaded file in, text with a box for every word out."""
