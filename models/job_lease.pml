/* Claim, lease, settle: one job, two workers that may pause or die anywhere, a sweeper that takes expired leases.
 *
 * Must hold: the job ends; only the holder of its lease writes its effect, once; one successor follows a written effect.
 * Run: spin -a job_lease.pml && gcc -o pan pan.c && ./pan            (0 errors)
 * Broken on purpose, and expected to fail:
 *   -DNO_FENCE        a settle does not look at the lease
 *   -DATTEMPT_FENCE   a settle looks at the attempt's number; a job handed back brings the same number again
 *   -DSPLIT_COMMIT    the result commits before the completion
 */
#define LOSSES 3    /* leases that may expire */
#define HANDBACKS 2 /* drains */

mtype = { pending, processing, completed, dead_letter };
mtype status = pending;
byte token = 0;     /* 0: no lease */
byte drawn = 0;     /* tokens drawn so far */
byte attempt = 1;
byte losses = 0;
byte handbacks = 0;
byte effects = 0;
byte successors = 0;

#ifdef NO_FENCE
#define HELD (status == processing)
#else
#ifdef ATTEMPT_FENCE
#define HELD (status == processing && attempt == my_attempt)
#else
#define HELD (status == processing && token == mine)
#endif
#endif

active [2] proctype Worker()
{
    byte mine;
    byte my_attempt;
    do
    :: atomic {
        status == pending ->
        status = processing;
        drawn++;
        token = drawn;
        mine = token;
        my_attempt = attempt
    }
    /* Here it works, and may be paused for as long as it takes for the lease to expire. */
    if
    :: skip /* killed: a new process begins at the top */
    :: true -> /* a drain hands it back and spends no attempt */
        atomic {
        if
        :: HELD && handbacks < HANDBACKS -> handbacks++; status = pending; token = 0
        :: else
        fi
        }
    :: true ->
#ifdef SPLIT_COMMIT
        atomic { if :: HELD -> effects++ :: else fi };
        if
        :: skip /* killed in between */
        :: atomic { if :: HELD -> status = completed; token = 0; successors++ :: else fi }
        fi
#else
        atomic {
            if
            :: HELD -> assert(token == mine); effects++; successors++; status = completed; token = 0
            :: else
            fi
        }
#endif
    fi;
    assert(effects <= 1);
    assert(successors <= 1);
    assert(status != completed || effects == successors)
    :: status == completed || status == dead_letter -> break
    od
}

active proctype Sweeper()
{
    do
    :: atomic { status == processing && losses < LOSSES -> losses++; status = pending; token = 0 }
    :: atomic { status == processing && losses == LOSSES -> status = dead_letter; token = 0 }
    :: status == completed || status == dead_letter -> break
    od
}
