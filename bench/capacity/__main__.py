"""``make bench-capacity``: four runs of the services, predicted from the times of a fifth."""

from bench.suite import run_suite

from . import predictions

if __name__ == "__main__":
    run_suite("capacity", (predictions,))
