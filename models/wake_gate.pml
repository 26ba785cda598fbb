/* The gate: a worker that finds nothing opens it, looks again, sleeps; whoever brings work looks at it last thing.
 *
 * Must hold: no job lies waiting while the worker sleeps for good.
 * Run: spin -a wake_gate.pml && gcc -o pan pan.c && ./pan            (0 errors: the poll bounds what the gate can miss)
 * Broken on purpose, and expected to end in a sleep beside a waiting job:
 *   -DNO_POLL                            the enqueue reads the gate, the worker falls asleep, then the enqueue commits
 *   -DNO_POLL -DATOMIC_ENQUEUE -DNO_SECOND_LOOK   the gate opens after the only look
 * Holds without a poll: -DNO_POLL -DATOMIC_ENQUEUE (were reading the gate and committing one step).
 */
#define JOBS 2

bool gate = false;
bool notified = false;
byte waiting = 0; /* committed jobs that nobody has claimed */
byte brought = 0;
byte done = 0;

proctype Enqueue()
{
    bool saw;
#ifdef ATOMIC_ENQUEUE
    atomic {
        saw = gate;
        waiting++;
        brought++;
        if :: saw -> gate = false; notified = true :: else fi
    }
#else
    atomic { saw = gate; if :: saw -> gate = false :: else fi };
    atomic {
        waiting++;
        brought++;
        if :: saw -> notified = true :: else fi
    }
#endif
}

proctype Worker()
{
    do
    :: done == JOBS -> break
    :: else ->
        if
        :: atomic { waiting > 0 -> waiting--; done++ }
        :: waiting == 0 ->
            gate = true;
#ifndef NO_SECOND_LOOK
            if
            :: atomic { waiting > 0 -> waiting--; done++ }
            :: waiting == 0 ->
#endif
                /* Asleep. */
                if
                :: atomic { notified -> notified = false }
#ifndef NO_POLL
                :: true
#endif
                fi
#ifndef NO_SECOND_LOOK
            fi
#endif
        fi
    od
}

init {
    atomic { run Worker(); run Enqueue(); run Enqueue() }
}
