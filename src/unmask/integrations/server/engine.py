"""The decode loop behind a server: a row joins at the next step, and leaves when it ends (continuous batching).

Rows of one kind (policy, region, blocks, temperature: `Kind`) share a `Session`, whatever their prompts, seeds, speeds
and stop strings; kinds take turns, a step each. One thread runs the dLLM; who asks is told of what comes out in the
asyncio loop that asked.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from unmask.decoding.decode import advance
from unmask.decoding.options import DecodeConfig, Options
from unmask.decoding.results import Completion
from unmask.decoding.session import Session, Totals
from unmask.decoding.state import Step
from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.noise import row_keys
from unmask.policies.base import Policy

logger = logging.getLogger(__name__)


class BusyError(UnmaskError):
    """As many rows wait as may."""


class ClosedError(UnmaskError):
    """The engine was stopped."""


class LateError(UnmaskError):
    """A row was not done in its time."""


@dataclass(frozen=True)
class Kind:
    """What all rows of a `Session` have in common.

    Attributes:
        policy: its name among those served.
        config: with neither speed nor stop strings, which are a row's own.
    """

    policy: str
    config: DecodeConfig

    @property
    def key(self) -> tuple[str, str]:
        """Equal for equal kinds."""
        return self.policy, self.config.model_dump_json()


@dataclass(frozen=True)
class Moment:
    """A step of a row that is watched.

    Attributes:
        step: from 1.
        tokens: of the region, masks among them.
        fresh: positions that took their token in this step, with its probability.
    """

    step: int
    tokens: list[int]
    fresh: dict[int, float]


Event = list[int] | Moment | Completion | UnmaskError
"""What stands of a row, a step of it, what came of it, or why nothing did."""


@dataclass(eq=False)
class Job:
    """A row to decode.

    Attributes:
        prompt: token ids.
        options: of `kind`, checked.
        seed: with `stream` the row's random stream, as prompt `stream` of a call of `unmask.generate` has it.
        stop: texts at which it ends.
        seconds: that it may take, waiting included; None for ever.
        stands: tell what stands after each step that adds to it.
        moments: tell each step.
        tell: called in the asyncio loop with each event; nothing follows a `Completion` or an error.
        sure: fill `confidences`.
        confidences: of each position of the region, the dLLM's probability of its likeliest token when it was written.
        row: index in its session.
        ended: its last event was told.
    """

    prompt: Sequence[int]
    kind: Kind
    options: Options
    tell: Callable[[Event], None]
    speed: float = 0.0
    seed: int = 0
    stream: int = 0
    stop: tuple[str, ...] = ()
    seconds: float | None = None
    stands: bool = False
    moments: bool = False
    sure: bool = False
    confidences: dict[int, float] = field(default_factory=dict)
    row: int = -1
    ended: bool = False
    _told: int = 0
    _due: float = float("inf")


class _Lane:
    """The rows of one kind."""

    def __init__(self, model: MaskedDiffusionModel, policy: Policy, options: Options, totals: Totals) -> None:
        self.policy, self.jobs = policy, dict[int, Job]()
        self._moments: list[tuple[Job, Event]] = []
        self.session = Session(model, policy.needs, options, callback=self._see, totals=totals)

    def add(self, jobs: Sequence[Job]) -> None:
        keys = torch.cat([row_keys(job.seed, torch.tensor([job.stream])) for job in jobs])
        speeds = [job.speed for job in jobs] if self.policy.needs.speed else None
        rows = [job.row for job in jobs]
        self.session.add([job.prompt for job in jobs], rows, keys, speeds, [job.stop for job in jobs])
        self.jobs |= zip(rows, jobs, strict=True)

    def drop(self, jobs: Iterable[Job]) -> None:
        rows = {job.row for job in jobs if self.jobs.pop(job.row, None) is not None}
        if rows:
            self.session.drop(rows)

    def step(self) -> list[tuple[Job, Event]]:
        """One pass of all rows; what there is to tell."""
        self._moments = []
        ended = advance(self.session, self.policy)
        events, self._moments = self._moments, []
        for done in ended.completions() if ended is not None else ():
            events.append((self.jobs.pop(done.index), done))
        if any(job.stands for job in self.jobs.values()):
            for row, tokens in self.session.standing().items():
                job = self.jobs[row]
                if job.stands and len(tokens) > job._told:
                    job._told = len(tokens)
                    events.append((job, tokens))
        return events

    def _see(self, step: Step) -> None:
        if not any(job.moments or job.sure for job in self.jobs.values()):
            return  # before the host waits for anything
        watched = [(i, self.jobs[row]) for i, row in enumerate(step.before.row.tolist())]
        watched = [(i, job) for i, job in watched if job.moments or job.sure]
        places = [i for i, _ in watched]
        shown = torch.where(step.changed, step.written, step.before.region)[places].tolist()
        sure = step.observation.confidence[..., 0].float()[places].tolist()
        changed, steps = step.changed[places].tolist(), step.before.step[places].tolist()
        for (_, job), tokens, p, new, n in zip(watched, shown, sure, changed, steps, strict=True):
            fresh = {at: p[at] for at, is_new in enumerate(new) if is_new}
            job.confidences.update(fresh)
            if job.moments:
                self._moments.append((job, Moment(n + 1, tokens, fresh)))


class Engine:
    """Decodes what it is given until it is stopped.

    Args:
        rows: decoded at a time, of all kinds together.
        queue: that may wait beside them.

    Attributes:
        totals: as in `unmask.decoding.session.Totals`.
    """

    def __init__(
        self, model: MaskedDiffusionModel, policies: Mapping[str, Policy], *, rows: int = 32, queue: int = 256
    ) -> None:
        self.model, self.policies, self.rows, self.queue = model, dict(policies), rows, queue
        self.totals = Totals()
        for policy in self.policies.values():
            policy.place(model.device)
        self._numbers = itertools.count()
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._waiting: deque[Job] = deque()
        self._gone: set[Job] = set()
        self._wake = threading.Condition()
        self._closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """Rows that wait for a place."""
        return len(self._waiting)

    @property
    def active(self) -> int:
        """Rows that are being decoded."""
        return sum(len(lane.jobs) for lane in list(self._lanes.values()))

    @property
    def alive(self) -> bool:
        """Whether it decodes."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin, telling events in this loop."""
        self._loop = loop
        self._thread = threading.Thread(target=self._run, name="unmask-decode", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the present step; rows that are not done are told so."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Let rows join as soon as there is room, in this order.

        Raises:
            BusyError: too many wait.
            ClosedError: it was stopped.
        """
        with self._wake:
            if self._closing or not self.alive:
                raise ClosedError("The server is shutting down: try another one, or later.")
            free = self.rows - self.active
            if len(self._waiting) + len(jobs) > self.queue + max(free, 0):
                raise BusyError(f"{len(self._waiting)} prompts wait already: try again later.")
            now = time.monotonic()
            for job in jobs:
                job.row = next(self._numbers)
                job._due = now + job.seconds if job.seconds is not None else float("inf")
            self._waiting.extend(jobs)
            self._wake.notify()

    def cancel(self, jobs: Iterable[Job]) -> None:
        """Give up rows: their places are free at the next step. Nothing is told of them any more."""
        with self._wake:
            self._gone.update(jobs)
            self._wake.notify()

    def _run(self) -> None:
        turn = 0
        while True:
            with self._wake:
                while not (self._waiting or self._gone or self._lanes or self._closing):
                    self._wake.wait()
                if self._closing:
                    break
                fresh, gone = self._admitted()
            try:
                self._give_up(gone)
                self._join(fresh)
                lanes = list(self._lanes.items())
                if lanes:
                    turn += 1
                    self._step(*lanes[turn % len(lanes)])
            except Exception:  # a fault of ours must not leave requests without an answer
                logger.exception("a step of the decode loop failed")
                self._fail_all(UnmaskError("The server met an error of its own: see its log."), fresh)
        self._fail_all(ClosedError("The server is shutting down."))

    def _admitted(self) -> tuple[list[Job], list[Job]]:
        """Rows that have a place now, and those to give up."""
        gone, self._gone = self._gone, set()
        now, active = time.monotonic(), [job for lane in self._lanes.values() for job in lane.jobs.values()]
        late = [job for job in (*self._waiting, *active) if job._due < now and job not in gone]
        self._tell([(job, LateError(f"The request took more than {job.seconds:g} seconds.")) for job in late])
        gone.update(late)
        if gone:
            self._waiting = deque(job for job in self._waiting if job not in gone)
        room = self.rows - sum(job not in gone for job in active)
        return [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))], list(gone)

    def _give_up(self, gone: Sequence[Job]) -> None:
        for key, lane in list(self._lanes.items()):
            lane.drop(gone)
            if not lane.jobs:
                del self._lanes[key]

    def _join(self, fresh: Sequence[Job]) -> None:
        of: dict[tuple[str, str], list[Job]] = {}
        for job in fresh:
            of.setdefault(job.kind.key, []).append(job)
        for key, jobs in of.items():
            try:
                lane = self._lanes.get(key)
                if lane is None:
                    lane = _Lane(self.model, self.policies[jobs[0].kind.policy], jobs[0].options, self.totals)
                lane.add(jobs)
                self._lanes[key] = lane
            except UnmaskError as e:  # such as too little memory
                self._tell([(job, e) for job in jobs])

    def _step(self, key: tuple[str, str], lane: _Lane) -> None:
        try:
            self._tell(lane.step())
        except UnmaskError as e:  # such as too little memory
            self._tell([(job, e) for job in lane.jobs.values()])
            lane.jobs.clear()
        if not lane.jobs:
            del self._lanes[key]

    def _fail_all(self, error: UnmaskError, fresh: Sequence[Job] = ()) -> None:
        """End all rows, also those that were about to join."""
        with self._wake:
            known = (*self._waiting, *(job for lane in self._lanes.values() for job in lane.jobs.values()), *fresh)
            left = [job for job in dict.fromkeys(known) if not job.ended]
            self._waiting.clear()
            self._lanes.clear()
        self._tell([(job, error) for job in left])

    def _tell(self, events: Sequence[tuple[Job, Event]]) -> None:
        """In the asyncio loop: one wake-up for all of a step."""
        for job, event in events:
            job.ended |= isinstance(event, Completion | UnmaskError)
        if not events or self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(_tell_all, events)
        except RuntimeError:  # the loop is closed: nobody listens any more
            logger.debug("events after the end of the loop: %d", len(events))


def _tell_all(events: Sequence[tuple[Job, Event]]) -> None:
    for job, event in events:
        job.tell(event)
