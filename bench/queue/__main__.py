"""``make bench-queue``: Chartloom's queue beside its peers, measure by measure as the modules here say.

ONLY="drain pick_up" runs a part, RUNS=1 makes it one round instead of five.
"""

from bench.suite import run_suite

from . import drain, enqueue, fairness, fencing, hand_off, idle, machine, pick_up, snapshot, table_size

if __name__ == "__main__":
    run_suite("queue", (machine, drain, hand_off, pick_up, enqueue, table_size, snapshot, fairness, fencing, idle))
