"""Watches the queue: takes jobs from workers that fell silent, wakes what is due, measures what waits."""
