"""Measurements. Each suite sets itself up, prints a table, and writes the same to ``bench/out/``."""
