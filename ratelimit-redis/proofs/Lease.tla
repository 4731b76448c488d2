------------------------------- MODULE Lease -------------------------------
(* The lease protocol of src/lease, in TLA+. A store's token bucket is a time line: a unit is T ticks of it, a   *)
(* lease is a piece of it, and a replica spends each tick of its piece before that tick's own time.              *)
(*                                                                                                              *)
(* What is here: strict charges, questions and answers that are lost, repeated, late and overtake each other,    *)
(* questions for a request that waits and for nobody, charges that are undone, replicas that die or sleep, a     *)
(* store that forgets its last operations, and one whose clock is set. What is not: clocks that run at different *)
(* speeds (lease_sim has them), and how large a grant is: the store here may grant any number that fits, so the  *)
(* result holds for every policy.                                                                               *)
(*                                                                                                              *)
(* Broken names a fault that is built in on purpose; `run` checks that TLC finds each.                           *)
EXTENDS Integers, FiniteSets

CONSTANTS
  Replicas,   \* who holds leases
  Burst, T,   \* the bucket: units at once, and ticks in which one comes back
  End,        \* ticks that are looked at
  Asks,       \* questions that each replica may ask
  Undone,     \* charges that each may undo
  Copies,     \* messages that may come twice
  Faults,     \* how often something may fail
  Broken      \* which fault is built in; "nothing"

VARIABLES
  now,        \* true time
  offset,     \* the store's clock is so far ahead of it
  tat,        \* of the store: when the bucket is full
  before,     \* what that was before the last operation
  held,       \* of each replica: ticks of the store's time line
  ahead,      \* of each: what it adds to its own clock for the store's
  trip,       \* of each: how long the answer took that it knows this from
  behind,     \* of each: ticks that it slept through; its clock stood still
  asking,     \* of each: the question under way, or Nothing
  asked,      \* of each: questions so far
  out,        \* of each: ticks of a charge that may be undone
  undone,     \* of each: charges undone so far
  network,    \* what is on its way; what is lost is never delivered
  worst,      \* the judge: the most, over all intervals that end now, of ticks admitted less the interval's length
  extra,      \* ticks that the store's own faults may add
  copies, faults

vars == <<now, offset, tat, before, held, ahead, trip, behind, asking, asked, out, undone, network, worst, extra,
          copies, faults>>
replicas == <<held, ahead, trip, behind, asking, asked, out, undone>>

Max(a, b) == IF a > b THEN a ELSE b
Min(a, b) == IF a < b THEN a ELSE b
Nothing == [flight |-> 0]
Symmetry == {f \in [Replicas -> Replicas] : \A a, b \in Replicas : f[a] = f[b] => a = b}

Store == now + offset
Used == Min(Max(tat - Store, 0), Burst * T)
Own(r) == now - behind[r]
\* The latest it can be at the store, as far as r knows.
Time(r) == Own(r) + ahead[r]

Admit(ticks) == worst' = worst + ticks
Charge(ticks) == /\ before' = tat
                 /\ tat' = Store + Used + ticks

Init ==
  /\ now = 0 /\ offset = 0
  /\ tat \in {0, (Burst - 1) * T}
  /\ before = tat
  /\ held = [r \in Replicas |-> {}]
  /\ ahead = [r \in Replicas |-> 0]
  /\ trip = [r \in Replicas |-> 0]
  /\ behind = [r \in Replicas |-> 0]
  /\ asking = [r \in Replicas |-> Nothing]
  /\ asked = [r \in Replicas |-> 0]
  /\ out = [r \in Replicas |-> {}]
  /\ undone = [r \in Replicas |-> 0]
  /\ network = {}
  /\ worst = 0 /\ extra = 0 /\ copies = 0 /\ faults = 0

-----------------------------------------------------------------------------
(* Replicas *)

Passes == worst' = Max(worst - 1, 0) /\ now' = now + 1 /\ now < End

Tick == /\ Passes
        /\ UNCHANGED <<offset, tat, before, replicas, network, extra, copies, faults>>

Drop(r) == /\ held' = [held EXCEPT ![r] = {}]
           /\ asking' = [asking EXCEPT ![r] = Nothing]
           /\ out' = [out EXCEPT ![r] = {}]

\* A tick that passes while r sleeps. It notices, since another clock went on.
Sleep(r) ==
  /\ faults < Faults /\ faults' = faults + 1
  /\ Passes
  /\ behind' = [behind EXCEPT ![r] = @ + 1]
  /\ IF Broken = "asleep" THEN UNCHANGED <<held, asking, out>> ELSE Drop(r)
  /\ UNCHANGED <<offset, tat, before, ahead, trip, asked, undone, network, extra, copies>>

Crash(r) ==
  /\ faults < Faults /\ faults' = faults + 1
  /\ Drop(r)
  /\ network' = {m \in network : m.to # r}
  /\ UNCHANGED <<now, offset, tat, before, ahead, trip, behind, asked, undone, worst, extra, copies>>

\* Runs of T ticks that r may spend now.
Runs(r) == {v \in held[r] : /\ \A w \in v .. v + T - 1 : w \in held[r]
                            /\ v >= Time(r) \/ Broken = "late"}
First(set) == CHOOSE v \in set : \A w \in set : v <= w

Spend(r) ==
  /\ Runs(r) # {}
  /\ LET v == First(Runs(r)) IN held' = [held EXCEPT ![r] = @ \ (v .. v + T - 1)]
  /\ Admit(T)
  /\ UNCHANGED <<now, offset, tat, before, ahead, trip, behind, asking, asked, out, undone, network, extra, copies, faults>>

\* Spent for a request that another limit then refuses.
Hold(r) ==
  /\ Runs(r) # {} /\ out[r] = {} /\ undone[r] < Undone
  /\ LET ticks == First(Runs(r)) .. First(Runs(r)) + T - 1
     IN /\ held' = [held EXCEPT ![r] = @ \ ticks]
        /\ out' = [out EXCEPT ![r] = ticks]
  /\ undone' = [undone EXCEPT ![r] = @ + 1]
  /\ UNCHANGED <<now, offset, tat, before, ahead, trip, behind, asking, asked, network, worst, extra, copies, faults>>

PutBack(r) ==
  /\ out[r] # {}
  /\ IF Broken = "returned"
     THEN /\ Charge(-Min(T, Used))
          /\ UNCHANGED held
     ELSE /\ held' = [held EXCEPT ![r] = @ \cup out[r]]
          /\ UNCHANGED <<tat, before>>
  /\ out' = [out EXCEPT ![r] = IF Broken = "twice" /\ ~(out[r] \subseteq held[r]) THEN @ ELSE {}]
  /\ UNCHANGED <<now, offset, ahead, trip, behind, asking, asked, undone, network, worst, extra, copies, faults>>

\* For a request that waits (waits = 1), or so that the next piece is here in time.
Ask(r) ==
  /\ asking[r] = Nothing /\ asked[r] < Asks
  /\ asked' = [asked EXCEPT ![r] = @ + 1]
  /\ \E waits \in {0, 1} :
       LET ask == [flight |-> asked[r] + 1, sent |-> Own(r), waits |-> waits]
       IN /\ asking' = [asking EXCEPT ![r] = ask]
          /\ network' = network \cup {[kind |-> "ask", to |-> r, flight |-> ask.flight, waits |-> waits]}
  /\ UNCHANGED <<now, offset, tat, before, held, ahead, trip, behind, out, undone, worst, extra, copies, faults>>

GiveUp(r) ==
  /\ asking[r] # Nothing
  /\ asking' = [asking EXCEPT ![r] = Nothing]
  /\ UNCHANGED <<now, offset, tat, before, held, ahead, trip, behind, asked, out, undone, network, worst, extra, copies, faults>>

Delivered(m) == \/ network' = network \ {m} /\ copies' = copies
                \/ copies < Copies /\ copies' = copies + 1 /\ network' = network

Answer(m) ==
  LET r == m.to
      ask == asking[r]
      \* A question is over with its first answer, or given up; whatever comes later is ignored.
      counts == ask # Nothing /\ ask.flight = m.flight
      sent == IF Broken = "received" THEN Own(r) ELSE ask.sent
      offsetOf == m.at - sent
      \* The store's clock was set back by more than this can be wrong: what is held lies on another time line.
      back == ahead[r] - offsetOf > trip[r]
      kept == IF back THEN {} ELSE held[r]
      end == m.at + m.used
      rest == (m.units - m.waits) * T
  IN /\ m.kind = "answer" /\ m \in network
     /\ Delivered(m)
     /\ IF counts \/ (Broken = "repeated" /\ ask # Nothing)
        THEN /\ held' = [held EXCEPT ![r] = kept \cup (end - rest .. end - 1)]
             /\ ahead' = [ahead EXCEPT ![r] = offsetOf]
             /\ trip' = [trip EXCEPT ![r] = Own(r) - sent]
             /\ out' = [out EXCEPT ![r] = IF back THEN {} ELSE @]
             /\ asking' = [asking EXCEPT ![r] = IF Broken = "repeated" THEN @ ELSE Nothing]
        ELSE UNCHANGED <<held, ahead, trip, out, asking>>
     /\ UNCHANGED <<now, offset, tat, before, behind, asked, undone, worst, extra, faults>>

-----------------------------------------------------------------------------
(* The store *)

\* A strict charge, by anybody.
Strict ==
  /\ Used + T <= Burst * T
  /\ Charge(T) /\ Admit(T)
  /\ UNCHANGED <<now, offset, replicas, network, extra, copies, faults>>

\* A grant is one ordinary charge of as many units as the store likes, of those that are there.
Grant(m) ==
  LET room == (Burst * T - Used) \div T + (IF Broken = "generous" THEN 1 ELSE 0)
  IN /\ m.kind = "ask" /\ m \in network
     /\ \E units \in Max(m.waits, 1) .. room :
          /\ Charge(units * T)
          /\ Admit(m.waits * T)
          /\ LET answer == [kind |-> "answer", to |-> m.to, flight |-> m.flight, waits |-> m.waits,
                            at |-> Store, used |-> Used + units * T, units |-> units]
             IN \/ network' = (network \ {m}) \cup {answer} /\ copies' = copies
                \/ copies < Copies /\ copies' = copies + 1 /\ network' = network \cup {answer}
     /\ UNCHANGED <<now, offset, replicas, extra, faults>>

\* The last operation is forgotten, by a failover say. What it was is admitted once more.
Rollback ==
  /\ faults < Faults /\ faults' = faults + 1
  /\ extra' = extra + Min(Max(tat - Max(before, Store), 0), Burst * T)
  /\ tat' = before
  /\ UNCHANGED <<now, offset, before, replicas, network, worst, copies>>

Set(ticks) ==
  /\ faults < Faults /\ faults' = faults + 1
  /\ offset' = offset + ticks
  /\ extra' = extra + Max(ticks, 0)
  /\ UNCHANGED <<now, tat, before, replicas, network, worst, copies>>

Next ==
  \/ Tick \/ Strict \/ Rollback
  \/ \E ticks \in {-2, -1, 1, 2} : Set(ticks)
  \/ \E r \in Replicas : Sleep(r) \/ Crash(r) \/ Spend(r) \/ Hold(r) \/ PutBack(r) \/ Ask(r) \/ GiveUp(r)
  \/ \E m \in network : Answer(m) \/ Grant(m)

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
\* In every interval of length W at most Burst + W / T units, over all replicas.
Bound == worst <= Burst * T + extra

\* To be violated: that leases are of no use.
NothingIsHeld == \A r \in Replicas : held[r] = {}
=============================================================================
