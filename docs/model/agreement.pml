/* One height of medpact's consensus, for the model checker Spin. README.md beside this file explains
 * it in words; simulations/model_check.py (`make model`) runs it in all the ways that are listed there.
 *
 * The question
 * ------------
 * Two classes vote: NR recorders and NA auditors. BR and BA of them are Byzantine. The property is
 * agreement: no two values are ever decided. It shall hold while at least one class is within its
 * bound, BR <= F(NR) or BA <= F(NA), whatever the members of the other class do.
 *
 * The paper is Castro & Liskov, "Practical Byzantine Fault Tolerance" (OSDI 1999), cited as OSDI'99.
 * Each rule below names its section there, and its rule in the table on top of consensus/replica.py.
 *
 * What is in a state
 * ------------------
 * Honest voters are one process each. Of a voter there is what consensus/promises.py makes durable:
 * the highest view it has signed in, whether it sent PREPARE there, and its lock, that is the
 * prepared certificate of its latest COMMIT. So any voter may crash and restart between any two steps.
 *
 * The network is a pool that only grows: how many honest voters of each class have signed each
 * message. Messages are lost, delayed, reordered and repeated as the adversary likes, for a rule may
 * fire, or not, as soon as SOME of the messages in the pool allow it. From the pool follows what
 * can be assembled, which the arrays below remember: prepared certificates (`certified`), commit
 * certificates (`committed`) and what a justification can oblige a view to (`allowed`).
 *
 * The Byzantine members have no state: they have signed everything, always. Each of their PREPAREs
 * and COMMITs counts for both values in every view. In a VIEW-CHANGE each claims, in every set anew,
 * nothing (hiding what it had prepared) or any certificate that exists; it cannot invent one, since
 * its PREPAREs would lack those of honest voters. Every primary is Byzantine too, in every view and
 * whichever class it is of: any proposal that can be justified reaches whom the adversary likes.
 *
 * Two values, A and B, stand for all blocks: see "two values are enough" in README.md.
 *
 * Options (-D)
 * ------------
 * NR NA BR BA VIEWS   the sizes; VIEWS is at most 4
 * STAGED              fire the rules view by view and phase by phase; loses no outcome (README.md)
 * one fault           SMALL_QUORUM TOTAL_QUORUM LOCK_FORGOTTEN CLAIM_UNPROVEN CLAIM_NOT_HIGHEST
 *                     CLAIM_IGNORED ONE_CLASS_JUSTIFIES STALE_COMMIT: breaks a rule, and Spin
 *                     must find two decided values
 * JOIN_ANYTIME        leaves out a rule on which safety does not rest
 * one goal            SEEK_FIRST_VIEW SEEK_FRESH_LATER SEEK_REPEATED SEEK_UNSEEN SEEK_JOINED: Spin
 *                     must find a way there, which shows that the rules are not empty words
 */

mtype = { recorder, auditor, A, B }

/* consensus/committee.py: faulty_max, quorum_size */
#define F(n)            (((n) - 1) / 3)
#define Q(n)            (((n) + F(n)) / 2 + 1)

#define HONEST_R        (NR - BR)
#define HONEST_A        (NA - BA)
#define VOTERS          (HONEST_R + HONEST_A)   /* recorders first */
#define BYZANTINE       (BR + BA)
#define BOTH            3                       /* the set of the values A = 0 and B = 1 */
#define BIT(x)          (1 << (x))
#define VALUE(x)        ((x) == 0 -> A : B)

#define GROUP(i)        ((i) < HONEST_R -> 0 : 1)
#define GROUP_START(i)  ((i) < HONEST_R -> 0 : HONEST_R)
#define GROUP_END(i)    ((i) < HONEST_R -> HONEST_R : VOTERS)
#define NAME(i)         ((i) < HONEST_R -> recorder : auditor)

/* Committee.is_quorum: q in every class; the arguments count honest recorders and honest auditors. */
#if defined(TOTAL_QUORUM)
#define QUORUM(r, a)    ((r) + BR + (a) + BA >= Q(NR + NA))
#elif defined(SMALL_QUORUM)
#define QUORUM(r, a)    ((r) + BR >= Q(NR) - 1 && (a) + BA >= Q(NA) - 1)
#else
#define QUORUM(r, a)    ((r) + BR >= Q(NR) && (a) + BA >= Q(NA))
#endif

/* Committee.exceeds_faulty: more than f in every class. */
#define EXCEEDS(r, a)   ((r) + BR > F(NR) && (a) + BA > F(NA))

#ifdef ONE_CLASS_JUSTIFIES
#define ENOUGH_ASK(r, a) ((r) + BR >= Q(NR) || (a) + BA >= Q(NA))
#else
#define ENOUGH_ASK(r, a) QUORUM(r, a)
#endif

/* A lock or claim is 0 for "nothing", else it names a view and a value; a later view is greater. */
#define CLAIM(v, x)     (1 + 2 * (v) + (x))
#define CLAIMS          (2 * VIEWS - 1)         /* none, and those of all views but the last */

#define VOTE(v, x, g)   (4 * (v) + 2 * (x) + (g))
#define ASK(v, g, k)    ((2 * (v) + (g)) * CLAIMS + (k))

/* ---- honest voters: consensus/promises.py ------------------------------------------------------ */

byte view[VOTERS];          /* Promises.highest_view */
byte prepared[VOTERS];      /* whether PREPARE is out in that view */
byte locked[VOTERS];        /* Promises.prepared: the claim of its latest COMMIT */
byte asked[VOTERS];         /* the view of its latest VIEW-CHANGE, or 0 */

/* ---- the pool: how many honest voters of each class have signed what --------------------------- */

byte prepares[4 * VIEWS];
byte commits[4 * VIEWS];
byte asks[2 * VIEWS * CLAIMS];

/* ---- what can be assembled from the pool and from Byzantine signatures: sets of values --------- */

byte certified[VIEWS];      /* Tally.prepared, and the certificates inside VIEW-CHANGEs */
byte committed[VIEWS];      /* Tally.committed */
byte allowed[VIEWS];        /* what check_proposal accepts in this view */
byte joinable;              /* Tally.view_joined */
byte decided;               /* the values in `committed`, over all views */

/* Scratch, always written before it is read: no part of a state. */
hidden byte sought, option, asks_r, asks_a, backed_r, backed_a, claim_number, slot, swapped;

/* consensus/tally.py: _complete. OSDI'99 section 4.2: the predicates prepared and committed-local. */
inline count_votes() {
    sought = 0;
    do
    :: sought < VIEWS ->
        option = 0;
        do
        :: option < 2 ->
            if
            :: !(certified[sought] & BIT(option)) &&
               QUORUM(prepares[VOTE(sought, option, 0)], prepares[VOTE(sought, option, 1)]) ->
                certified[sought] = certified[sought] | BIT(option);
                printf("view %d: %e is PREPARED by a quorum: %d honest and %d Byzantine recorders, %d honest and %d Byzantine auditors\n",
                    sought, VALUE(option), prepares[VOTE(sought, option, 0)], BR,
                    prepares[VOTE(sought, option, 1)], BA)
            :: else
            fi;
            if
            :: !(committed[sought] & BIT(option)) &&
               QUORUM(commits[VOTE(sought, option, 0)], commits[VOTE(sought, option, 1)]) ->
                committed[sought] = committed[sought] | BIT(option);
                decided = decided | BIT(option);
                printf("view %d: %e is DECIDED: %d honest and %d Byzantine recorders, %d honest and %d Byzantine auditors\n",
                    sought, VALUE(option), commits[VOTE(sought, option, 0)], BR,
                    commits[VOTE(sought, option, 1)], BA)
            :: else
            fi;
            option++
        :: else -> break
        od;
        sought++
    :: else -> break
    od
}

/* Whether some VIEW-CHANGE for `sought` can claim `claim_number`, of view `slot` and value `option`.
 * certificates.py, check_view_change: a Byzantine member needs a certificate that exists. */
#ifdef CLAIM_UNPROVEN
#define BYZANTINE_CLAIM (BYZANTINE > 0)
#else
#define BYZANTINE_CLAIM (BYZANTINE > 0 && (certified[slot] & BIT(option)))
#endif
#define CLAIMED \
    (asks[ASK(sought, 0, claim_number)] + asks[ASK(sought, 1, claim_number)] > 0 || BYZANTINE_CLAIM)

/* OSDI'99 section 4.4: what a NEW-VIEW may propose. consensus/view_change.py, check_proposal, and
 * certificates.py, check_justification: a quorum of VIEW-CHANGEs for exactly this view obliges to
 * the value of the highest claim among them; if none claims anything, any value is fresh. The set
 * may leave out whom the adversary likes, so asks_r and asks_a count only who claims less than
 * view `slot`, and backed_r and backed_a add who claims just this value in it. */
inline justify() {
    sought = 1;
    do
    :: sought < VIEWS ->
        asks_r = asks[ASK(sought, 0, 0)];
        asks_a = asks[ASK(sought, 1, 0)];
        if
        :: ENOUGH_ASK(asks_r, asks_a) -> allowed[sought] = BOTH
        :: else
        fi;
        slot = 0;
        do
        :: slot < sought && slot < VIEWS - 1 ->
            option = 0;
            do
            :: option < 2 ->
                claim_number = CLAIM(slot, option);
                backed_r = asks_r + asks[ASK(sought, 0, claim_number)];
                backed_a = asks_a + asks[ASK(sought, 1, claim_number)];
                if
                :: ENOUGH_ASK(backed_r, backed_a) && CLAIMED ->
                    allowed[sought] = allowed[sought] | BIT(option)
                :: else
                fi;
                option++
            :: else -> break
            od;
            asks_r = backed_r + asks[ASK(sought, 0, CLAIM(slot, 0))];
            asks_a = backed_a + asks[ASK(sought, 1, CLAIM(slot, 0))];
            slot++
        :: else -> break
        od;
#ifdef CLAIM_IGNORED
        if
        :: ENOUGH_ASK(asks_r, asks_a) -> allowed[sought] = BOTH
        :: else
        fi;
#endif
#ifdef CLAIM_NOT_HIGHEST
        slot = 0;
        do
        :: slot < sought && slot < VIEWS - 1 ->
            option = 0;
            do
            :: option < 2 ->
                claim_number = CLAIM(slot, option);
                if
                :: ENOUGH_ASK(asks_r, asks_a) && CLAIMED ->
                    allowed[sought] = allowed[sought] | BIT(option)
                :: else
                fi;
                option++
            :: else -> break
            od;
            slot++
        :: else -> break
        od;
#endif
        sought++
    :: else -> break
    od
}

/* OSDI'99 section 4.5.2, second rule, in every class: Tally.view_joined. */
inline count_askers() {
    sought = 1;
    do
    :: sought < VIEWS ->
        asks_r = 0;
        asks_a = 0;
        slot = 0;
        do
        :: slot < VOTERS ->
            if
            :: asked[slot] >= sought && slot < HONEST_R -> asks_r++
            :: asked[slot] >= sought && slot >= HONEST_R -> asks_a++
            :: else
            fi;
            slot++
        :: else -> break
        od;
        if
        :: EXCEEDS(asks_r, asks_a) -> joinable = sought
        :: else
        fi;
        sought++
    :: else -> break
    od
}

/* Voters of one class are interchangeable, so each class is kept sorted: symmetric states are one. */
#define RANK(i) (((view[i] * 2 + prepared[i]) * 16 + locked[i]) * 4 + asked[i])
#define SWAP(field, i, j) swapped = field[i]; field[i] = field[j]; field[j] = swapped
#define EXCHANGE(i, j) \
    SWAP(view, i, j); SWAP(prepared, i, j); SWAP(locked, i, j); SWAP(asked, i, j)

inline sort_class() {
    slot = me;
    do
    :: slot > GROUP_START(me) && RANK(slot) < RANK(slot - 1) -> EXCHANGE(slot, slot - 1); slot--
    :: else -> break
    od;
    do
    :: slot + 1 < GROUP_END(me) && RANK(slot) > RANK(slot + 1) -> EXCHANGE(slot, slot + 1); slot++
    :: else -> break
    od
}

/* ---- the property, and the goals --------------------------------------------------------------- */

#if defined(SEEK_FIRST_VIEW)
#define GOAL (committed[0] != 0)
#elif defined(SEEK_FRESH_LATER)
#define GOAL (committed[1] != 0 && certified[0] == 0)
#elif defined(SEEK_REPEATED)
#define GOAL (committed[1] == BIT(1) && certified[0] == BIT(1) && allowed[1] == BIT(1) && !committed[0])
#endif

/* What every step ends with: see what the pool now allows, and whether agreement still holds. */
inline finish() {
    d_step {
        count_votes();
        justify();
        count_askers();
        sort_class();
#ifdef GOAL
        assert(!GOAL);
#endif
        assert(decided != BOTH)
    }
}

/* ---- STAGED: a global order of all steps; README.md shows why it loses no outcome -------------- */

#define ASKING          0
#define PREPARING       1
#define COMMITTING      2
#ifdef STAGED
byte stage = PREPARING;     /* 3 * view + phase; view 0 needs no VIEW-CHANGE */
#define NOW(v, phase)   (stage == 3 * (v) + phase)
#else
#define NOW(v, phase)   true
#endif

/* ---- the rules --------------------------------------------------------------------------------- */

/* replica.py, Promises.highest_view: a view only grows, and nothing is signed below it. */
inline enter(v) {
    if
    :: v > view[me] -> view[me] = v; prepared[me] = 0
    :: else
    fi
}

/* Rule "prepare" (height.py, receive_proposal and _prepare). OSDI'99 section 4.2: accept a
 * PRE-PREPARE in a view that was not left and answer it with PREPARE, once a view; section 4.4:
 * above view 0 the PRE-PREPARE must be justified, and then also brings who has not asked for it. */
#define RULE_PREPARE(v, x) \
    d_step { \
        NOW(v, PREPARING) && v >= view[me] && !(v == view[me] && prepared[me]) && \
        (allowed[v] & BIT(x)) -> \
        printf("view %d: an honest %e sends PREPARE for %e\n", v, NAME(me), VALUE(x)); \
        enter(v); \
        prepared[me] = 1; \
        prepares[VOTE(v, x, GROUP(me))]++ \
    }

#ifdef STALE_COMMIT
#define LEFT(v) false
#else
#define LEFT(v) (v < view[me])
#endif
#ifdef SEEK_UNSEEN
#define WATCH_COMMIT(v) assert(v == view[me] && prepared[me])
#else
#define WATCH_COMMIT(v) skip
#endif

/* Rule "commit" (height.py, _commit). OSDI'99 section 4.2: COMMIT once prepared, here also for who
 * got no PRE-PREPARE and who is in a lower view: the certificate is enough. Views of COMMITs ascend. */
#define RULE_COMMIT(v, x) \
    d_step { \
        NOW(v, COMMITTING) && !LEFT(v) && locked[me] < CLAIM(v, 0) && (certified[v] & BIT(x)) -> \
        printf("view %d: an honest %e sends COMMIT for %e\n", v, NAME(me), VALUE(x)); \
        WATCH_COMMIT(v); \
        enter(v); \
        locked[me] = CLAIM(v, x); \
        commits[VOTE(v, x, GROUP(me))]++ \
    }

#ifdef LOCK_FORGOTTEN
#define LOCK 0
#else
#define LOCK locked[me]
#endif
#ifdef JOIN_ANYTIME
#define JOIN(v) true
#else
#define JOIN(v) (v <= joinable)
#endif
#ifdef SEEK_JOINED
#define WATCH_VIEW_CHANGE(v) assert(v == view[me] + 1)
#else
#define WATCH_VIEW_CHANGE(v) skip
#endif

/* Rule "join", and the end of a timed view (height.py, _join, expire and _leave). OSDI'99 sections
 * 4.4 and 4.5.2: VIEW-CHANGE for the next view at any time, as a clock may run out at any time, or
 * for any higher one that more than f of every class ask for. It names what a COMMIT rests on. */
#define RULE_VIEW_CHANGE(v) \
    d_step { \
        NOW(v, ASKING) && v > view[me] && (v == view[me] + 1 || JOIN(v)) -> \
        if \
        :: LOCK == 0 -> printf("view %d: an honest %e asks for it, claiming nothing\n", v, NAME(me)) \
        :: else -> \
            printf("view %d: an honest %e asks for it, claiming %e of view %d\n", \
                v, NAME(me), VALUE((LOCK - 1) % 2), (LOCK - 1) / 2) \
        fi; \
        WATCH_VIEW_CHANGE(v); \
        asks[ASK(v, GROUP(me), LOCK)]++; \
        enter(v); \
        asked[me] = v \
    }

/* Rule "propose" (height.py, _propose) has no step of its own: `allowed` holds what any primary may
 * propose. Rule "decide" (_decide) is `committed`. Rule "time view" is liveness. */
proctype voter(byte me) {
end:
    do
    :: atomic {
        if
        :: RULE_PREPARE(0, 0)
        :: RULE_PREPARE(0, 1)
        :: RULE_COMMIT(0, 0)
        :: RULE_COMMIT(0, 1)
#if VIEWS > 1
        :: RULE_VIEW_CHANGE(1)
        :: RULE_PREPARE(1, 0)
        :: RULE_PREPARE(1, 1)
        :: RULE_COMMIT(1, 0)
        :: RULE_COMMIT(1, 1)
#endif
#if VIEWS > 2
        :: RULE_VIEW_CHANGE(2)
        :: RULE_PREPARE(2, 0)
        :: RULE_PREPARE(2, 1)
        :: RULE_COMMIT(2, 0)
        :: RULE_COMMIT(2, 1)
#endif
#if VIEWS > 3
        :: RULE_VIEW_CHANGE(3)
        :: RULE_PREPARE(3, 0)
        :: RULE_PREPARE(3, 1)
        :: RULE_COMMIT(3, 0)
        :: RULE_COMMIT(3, 1)
#endif
        fi;
        finish()
    }
    od
}

#ifdef STAGED
/* The next stage. What no rule can add to any more is forgotten: the arrays of sets keep what it meant. */
#define STAGE_VIEW (stage / 3)
inline forget() {
    slot = 0;
    do
    :: slot < 4 * VIEWS -> prepares[slot] = 0; commits[slot] = 0; slot++
    :: else -> break
    od;
    slot = 0;
    do
    :: slot < 2 * VIEWS * CLAIMS -> asks[slot] = 0; slot++
    :: else -> break
    od;
    if
    :: stage % 3 != PREPARING -> allowed[STAGE_VIEW] = 0
    :: else
    fi;
    slot = 0;
    do
    :: slot < VOTERS ->
        view[slot] = (stage % 3 == ASKING -> STAGE_VIEW - 1 : STAGE_VIEW);
        prepared[slot] = 0;
        asked[slot] = 0;
        slot++
    :: else -> break
    od;
    joinable = 0
}
#endif

init {
    d_step {
        allowed[0] = BOTH;
        count_votes();
        justify()
    }
    atomic {
        slot = 0;
        do
        :: slot < VOTERS -> run voter(slot); slot++
        :: else -> break
        od
    }
#ifdef STAGED
end:
    do
    :: d_step { stage < 3 * VIEWS - 1 -> stage++; forget() }
    od
#endif
}
