"""The services as a discrete-event simulation: queues, instances that share their cores, and a model's limits.

As it is: the order of claims (later pass first, fair between patients), an instance that claims as much as it has room
for, cores shared evenly among the jobs that use them, a job that keeps its place while it waits for a model, limits a
minute over all instances with a job that comes back when there is room. Simpler: a job's questions are reserved
together, its work on the core comes before them, nothing fails.
"""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .fleet import CLAIMED_BY, SERVICE_OF, Fleet
from .prices import Prices
from .times import STEPS, StepTime, Times
from .workload import Document

WINDOW_S = 61.5
"""In which a limit a minute holds, as in chartloom.reserve_rate_slot."""
FAST = ("ocr",)


@dataclass(frozen=True)
class Limits:
    """Of the model endpoint, a minute, all instances together. None: no limit."""

    requests: int | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class Passed:
    """When a document came, had its last fast job, was persisted; seconds from the first document's arrival."""

    document: Document
    ocr_ended_s: float
    persisted_s: float

    @property
    def fast_s(self) -> float:
        return self.ocr_ended_s - self.document.arrives_s

    @property
    def ai_s(self) -> float:
        """From its first AI job's enqueue."""
        return self.persisted_s - self.ocr_ended_s

    @property
    def whole_s(self) -> float:
        return self.persisted_s - self.document.arrives_s


@dataclass(frozen=True)
class Outcome:
    """``depths`` are (second, step, jobs that wait) at each change; ``busy_s`` is of all the places of a service."""

    passed: list[Passed]
    makespan_s: float
    depths: list[tuple[float, str, int]]
    ends_s: list[float]
    busy_s: dict[str, float]
    input_tokens: int
    output_tokens: int
    requests: int
    snoozes: int


def simulate(
    documents: Sequence[Document], times: Times, fleet: Fleet, prices: Prices, limits: Limits, *, seed: int = 1
) -> Outcome:
    """The documents' way through the fleet. The same seed gives the same again."""
    source = random.Random(seed)  # noqa: S311 - a simulation's, and it shall give the same again
    return _Simulation(documents, times, fleet, prices, limits=limits, source=source).run()


# -- cores ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Job:
    step: str
    place: int
    """The document's, in the order of arrival."""
    core_s: float
    began_s: float = 0.0


class _Instance:
    """One process: its places, and the jobs that use its cores, which all go on at the same rate."""

    def __init__(self, service: str, concurrency: int, cores: float) -> None:
        self.service = service
        self.room = concurrency
        self.cores = cores
        self.version = 0
        self._using: list[tuple[float, int, _Job]] = []
        self._done = 0.0
        """Core seconds that a job got which has been there from the start."""
        self._at_s = 0.0
        self._rate = 0.0
        self._numbers = itertools.count()

    @property
    def wanted(self) -> float:
        """Cores that it would use if it had them to itself."""
        return min(float(len(self._using)), self.cores)

    def go_on(self, now: float) -> None:
        """Up to now at the rate so far."""
        self._done += self._rate * (now - self._at_s)
        self._at_s = now

    def add(self, job: _Job) -> None:
        heapq.heappush(self._using, (self._done + job.core_s, next(self._numbers), job))

    def take_next(self) -> _Job:
        return heapq.heappop(self._using)[2]

    def share(self, granted: float) -> float | None:
        """From now on at this share of what it wants; returns when its next job is done with the core."""
        self.version += 1
        if not self._using:
            self._rate = 0.0
            return None
        self._rate = granted * self.wanted / len(self._using)
        return self._at_s + max(self._using[0][0] - self._done, 0.0) / self._rate


# -- queues -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Queue:
    """Jobs of one step that wait, in the order of start-time fair queueing (docs/decisions/0007)."""

    waiting: list[tuple[int, int, _Job]] = field(default_factory=list)
    head: int = 0
    last_of: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of a patient who has jobs waiting: the last tag, and how many they are."""
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def push(self, job: _Job, patient: str) -> None:
        tag, count = self.last_of.get(patient, (self.head - 1, 0))
        tag = max(tag + 1, self.head)
        self.last_of[patient] = (tag, count + 1)
        heapq.heappush(self.waiting, (tag, next(self.numbers), job))

    def pop(self, patient_of: Callable[[_Job], str]) -> _Job:
        self.head, _, job = heapq.heappop(self.waiting)
        patient = patient_of(job)
        tag, count = self.last_of[patient]
        if count == 1:
            del self.last_of[patient]
        else:
            self.last_of[patient] = (tag, count - 1)
        return job


class _Window:
    """What was granted of a model's limits in the last minute."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._grants: deque[tuple[float, int, int]] = deque()
        self._requests = 0
        self._tokens = 0

    def reserve(self, now: float, requests: int, tokens: int) -> float | None:
        """None: go. Else: when there is room."""
        while self._grants and self._grants[0][0] + WINDOW_S <= now:
            _, earlier, spent = self._grants.popleft()
            self._requests -= earlier
            self._tokens -= spent
        over_requests = self._over(self._requests + requests, self._limits.requests)
        over_tokens = self._over(self._tokens + tokens, self._limits.tokens)
        # More than a whole minute's: it goes when nothing else does.
        if (over_requests <= 0 and over_tokens <= 0) or not self._grants:
            self._grants.append((now, requests, tokens))
            self._requests += requests
            self._tokens += tokens
            return None
        free_s = now
        for granted_s, earlier, spent in self._grants:
            free_s = granted_s + WINDOW_S
            over_requests -= earlier
            over_tokens -= spent
            if over_requests <= 0 and over_tokens <= 0:
                break
        return free_s

    @staticmethod
    def _over(wanted: int, limit: int | None) -> int:
        return 0 if limit is None else wanted - limit


# -- the events -------------------------------------------------------------------------------------------------------


class _Simulation:
    def __init__(
        self,
        documents: Sequence[Document],
        times: Times,
        fleet: Fleet,
        prices: Prices,
        *,
        limits: Limits,
        source: random.Random,
    ) -> None:
        self._documents = documents
        self._times = times
        self._source = source
        self._window = _Window(limits)
        self._is_limited = limits != Limits()
        self._cores = fleet.cores
        self._instances = {
            service: [
                _Instance(service, of.concurrency, fleet.cores_of(of, prices))
                for of in [fleet.services[service]]
                for _ in range(of.instances)
            ]
            for service in CLAIMED_BY
        }
        self._everyone = [instance for group in self._instances.values() for instance in group]
        self._queues = {step: _Queue() for step in STEPS}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._now = 0.0
        self._ocr_ended: dict[int, float] = {}
        self._passed: list[Passed] = []
        self._depths: list[tuple[float, str, int]] = []
        self._ends: list[float] = []
        self._busy = dict.fromkeys(CLAIMED_BY, 0.0)
        self._tokens = [0, 0]
        self._requests = 0
        self._snoozes = 0
        # Every job's part in the spread is drawn beforehand, so that another fleet meets the same jobs.
        self._drawn = {step: self._draw(times.steps[step], len(documents)) for step in STEPS}

    def _draw(self, step: StepTime, count: int) -> list[float]:
        values = [step.spread[place % len(step.spread)] for place in range(count)]
        self._source.shuffle(values)
        return values

    def run(self) -> Outcome:
        for place, document in enumerate(self._documents):
            self._at(document.arrives_s, lambda place=place: self._enqueue(STEPS[0], place))  # type: ignore[misc]
        while self._events:
            self._now, _, event = heapq.heappop(self._events)
            event()
        return Outcome(
            passed=self._passed,
            makespan_s=max(passed.persisted_s for passed in self._passed),
            depths=self._depths,
            ends_s=self._ends,
            busy_s=self._busy,
            input_tokens=self._tokens[0],
            output_tokens=self._tokens[1],
            requests=self._requests,
            snoozes=self._snoozes,
        )

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), event))

    def _patient_of(self, job: _Job) -> str:
        return self._documents[job.place].patient

    def _enqueue(self, step: str, place: int) -> None:
        core_s = self._times.steps[step].core_s.of(self._documents[place]) * self._drawn[step][place]
        self._wait(_Job(step, place, core_s))

    def _wait(self, job: _Job) -> None:
        self._queues[job.step].push(job, self._patient_of(job))
        self._tell_depth(job.step)
        free = [instance for instance in self._instances[SERVICE_OF[job.step]] if instance.room]
        if free:
            # Whoever is woken first: nobody decides it.
            self._claim(self._source.choice(free))

    def _tell_depth(self, step: str) -> None:
        self._depths.append((self._now, step, len(self._queues[step].waiting)))

    def _claim(self, instance: _Instance) -> None:
        for step in CLAIMED_BY[instance.service]:
            queue = self._queues[step]
            while instance.room and queue.waiting:
                job = queue.pop(self._patient_of)
                self._tell_depth(step)
                self._begin(instance, job)

    def _begin(self, instance: _Instance, job: _Job) -> None:
        document = self._documents[job.place]
        model = self._times.steps[job.step].model
        if model and self._is_limited:
            questions = model.count(document)
            tokens = questions * (model.input_tokens + model.output_tokens)
            free_at = self._window.reserve(self._now, questions, tokens)
            if free_at is not None:
                self._snoozes += 1
                self._at(free_at, lambda: self._wait(job))
                return
        instance.room -= 1
        job.began_s = self._now
        if model:
            questions = model.count(document)
            self._requests += questions
            self._tokens[0] += questions * model.input_tokens
            self._tokens[1] += questions * model.output_tokens
        instance.go_on(self._now)
        instance.add(job)
        self._share_cores(instance)

    def _share_cores(self, changed: _Instance) -> None:
        """After an instance's jobs changed: on one machine that changes everybody's share, else only its own."""
        sharing = [changed]
        granted = 1.0
        if self._cores is not None:
            sharing = self._everyone
            wanted = sum(instance.wanted for instance in sharing)
            granted = min(1.0, self._cores / wanted) if wanted else 1.0
        for instance in sharing:
            instance.go_on(self._now)
            ready = instance.share(granted)
            if ready is not None:
                self._at(ready, self._core_done(instance, instance.version))

    def _core_done(self, instance: _Instance, version: int) -> Callable[[], None]:
        def event() -> None:
            if instance.version != version:
                return  # something changed meanwhile, and there is a later word on it
            instance.go_on(self._now)
            job = instance.take_next()
            self._share_cores(instance)
            model = self._times.steps[job.step].model
            waits = model.seconds(self._documents[job.place]) * self._drawn[job.step][job.place] if model else 0.0
            self._at(self._now + waits, lambda: self._end(instance, job))

        return event

    def _end(self, instance: _Instance, job: _Job) -> None:
        self._busy[instance.service] += self._now - job.began_s
        self._ends.append(self._now)
        if job.step in FAST:
            self._ocr_ended[job.place] = self._now
        following = STEPS.index(job.step) + 1
        if following < len(STEPS):
            self._enqueue(STEPS[following], job.place)
        else:
            document = self._documents[job.place]
            self._passed.append(Passed(document, self._ocr_ended[job.place], self._now))
        self._at(self._now + self._times.pick_up_s, lambda: self._free(instance))

    def _free(self, instance: _Instance) -> None:
        instance.room += 1
        self._claim(instance)
