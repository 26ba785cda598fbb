"""One folder a service; each runs alone as ``python -m services.<name>``. No service imports another."""
