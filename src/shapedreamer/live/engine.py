"""The engine: one thread that dreams for all viewers, with one network call for as many of their steps as there are.

Each frame under way waits with a question: what is x̂₀ of this x_t? The engine takes the one that has waited longest
and all behind it that are for the same model, up to BATCH images, puts them into one call and hands out the answers.
Each frame goes on to its next question, at the end of the line, so that all have their turns equally often.

Nobody waits for a slow viewer either. A frame that it has not fetched is replaced by the next one, once; then its dream
rests until it has.
"""

import logging
import math
import reprlib
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import Any, NamedTuple

from torch import Tensor

from ..common.errors import UserError
from ..models.model import Model
from .frames import Ask, Asking, Dream, Frame, Traced
from .network import Network, answer, eager, fastest
from .settings import Message, Order, Repaint, Set, check_settings, check_way, image_of, keep_of

# Images in a call. On a CPU each takes 0.4 to 0.8 of the time of one alone in a call of 16, and no less in one of 32.
BATCH = 32
STILL_FPS = 60.0  # of a dream that stands still, where a frame takes no call
MOST_TRACES = 8  # that a viewer may wait for
WINDOW = 10.0  # seconds over which frames a second are counted
log = logging.getLogger(__name__)


# viewers


@dataclass(eq=False)
class Viewer:
    """One who watches. What waits to be fetched is never more than a frame, MOST_TRACES traces and a line of text.

    news     is called, by the engine's thread, when there is something to fetch
    steps    frames wanted of a dream that is paused
    began    when the last frame was to begin
    behind   whether a frame was replaced before it was fetched
    trouble  why the dream has stopped
    """

    news: Callable[[], object]
    dream: Dream = field(default_factory=Dream)
    playing: bool = False
    steps: int = 0
    traces: deque[Traced] = field(default_factory=deque)
    job: "Job | None" = None
    began: float = -math.inf
    frame: bytes | None = None
    behind: bool = False
    traced: deque[bytes] = field(default_factory=deque)
    trouble: str | None = None

    @property
    def due(self) -> float:
        """When the next frame begins; infinite if none is to come by itself."""
        if self.dream.settings is None or not (self.playing or self.steps) or self.job or self.behind:
            return math.inf
        return self.began + self._rest

    @property
    def _rest(self) -> float:
        """Seconds from the beginning of a frame to that of the next, at the least."""
        settings = self.dream.settings
        assert settings is not None
        fps = 0.0 if self.steps else settings.fps
        return 1 / (fps or (math.inf if settings.creativity else STILL_FPS))

    def next(self, now: float) -> "Frame | Traced | None":
        """What to begin now, if anything."""
        if self.job:
            return None
        if self.traces:
            return self.traces.popleft()
        if self.dream.is_due:
            self.began = now
            return self.dream.next()
        if now < self.due:
            return None
        # a frame that is a little late does not put off the one after it
        self.began = self.due if now - self.due < self._rest else now
        self.steps = max(0, self.steps - 1)
        return self.dream.next()

    def stop(self, trouble: str) -> None:
        """Go on with nothing, and say why."""
        self.playing, self.steps, self.job, self.trouble = False, 0, None, trouble
        self.news()

    def forget(self) -> None:
        """Drop the frame that has not been fetched: the dream begins again."""
        self.frame, self.behind = None, False


@dataclass(eq=False)
class Job:
    """A frame or trace under way."""

    viewer: Viewer
    what: Frame | Traced
    asks: Asking[Any]
    started: float
    calls: int = 0

    @property
    def model(self) -> str:
        return self.what.settings.model


# the engine


class Stats(NamedTuple):
    """How an engine does.

    frames, seconds    made since the start, and all that they took, each from its first step to its last
    calls, images      of networks since the start, and images in them
    frames_per_second  over the last WINDOW seconds
    took               the seconds that each of those frames took, from the shortest on
    networks           how the network of each model is run
    """

    viewers: int
    frames: int
    seconds: float
    calls: int
    images: int
    frames_per_second: float
    took: list[float]
    networks: dict[str, str]


class Engine:
    """Dreams for viewers, in a thread that runs from `start` to `stop`. What it is told, it may be told by any thread.

    models   by name
    pick     finds out how to run a model's network; that is done beside the dreaming when somebody first sets the model
    clock    in seconds
    failure  why the thread has died; None while it has not
    """

    failure: str | None = None

    def __init__(
        self,
        models: Mapping[str, Model],
        pick: Callable[[Model], tuple[Network, str]] = fastest,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.models, self._pick, self._clock = models, pick, clock
        self._networks = {name: (eager(model), "eager") for name, model in models.items()}
        self._picked: set[str] = set()
        self._picking = ThreadPoolExecutor(1, "picking")
        self._changed = Condition()  # guards the viewers and all below but the line
        self._viewers: dict[Viewer, None] = {}  # in the order in which they came
        self._stopping = False
        self._frames = self._calls = self._images = 0
        self._seconds = 0.0
        self._recent: deque[tuple[float, float]] = deque()  # when a frame was done, and the seconds that it took
        self._line: deque[tuple[Job, Ask]] = deque()  # what waits for the network; the thread's own
        self._thread = Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Drop what is under way; no thread is left afterwards."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()
        self._picking.shutdown(cancel_futures=True)

    def prepare(self, name: str) -> str:
        """Find out how to run the network of this model, run it so from now on, and return the name of that way."""
        self._picked.add(name)
        self._networks[name] = self._pick(self.models[name])
        return self._networks[name][1]

    # what viewers do

    def join(self, news: Callable[[], object], most: int) -> Viewer:
        """A new viewer. UserError if there are `most` already, or if the engine has died."""
        with self._changed:
            self._check_alive()
            if len(self._viewers) >= most:
                raise UserError(f"there are {most} viewers already, which is the most; try again later")
            viewer = Viewer(news)
            self._viewers[viewer] = None
            return viewer

    def leave(self, viewer: Viewer) -> None:
        with self._changed:
            self._viewers.pop(viewer, None)
            self._changed.notify()

    def heed(self, viewer: Viewer, message: Message) -> None:
        """Do what a viewer says. UserError if it makes no sense."""
        with self._changed:
            self._check_alive()
            settings = viewer.dream.settings
            if isinstance(message, Set):
                self._set(viewer, message)
            elif isinstance(message, Order) and message.type in ("play", "pause"):
                viewer.playing, viewer.steps = message.type == "play", 0
            elif settings is None:
                raise UserError(f"{message.type} comes too early: the first message is set")
            elif isinstance(message, Order):
                self._order(viewer, message.type)
            elif isinstance(message, Repaint):
                viewer.dream.repaint(keep_of(message.mask, self.models[settings.model]))
            else:
                check_way(self.models[settings.model], message.sampler, message.steps, message.eta)
                if len(viewer.traces) + len(viewer.traced) >= MOST_TRACES:
                    raise UserError(f"there are {MOST_TRACES} traces to come already, which is the most")
                viewer.traces.append(Traced(message, settings))
            self._changed.notify()

    def fetch(self, viewer: Viewer) -> bytes | str | None:
        """What to send to a viewer next: a frame or trace, the words of an error, or nothing for now."""
        with self._changed:
            if viewer.trouble is not None:
                trouble, viewer.trouble = viewer.trouble, None
                return trouble
            if viewer.traced:
                return viewer.traced.popleft()
            frame, viewer.frame = viewer.frame, None
            if viewer.behind:
                viewer.behind = False
                self._changed.notify()
            return frame

    def _set(self, viewer: Viewer, message: Set) -> None:
        settings = message.settings
        model = self.models.get(settings.model)
        if model is None:
            raise UserError(f"there is no model {reprlib.repr(settings.model)}; there are: {', '.join(self.models)}")
        check_settings(settings, model)
        image = None if message.image is None else image_of(message.image, settings.num, model)
        viewer.dream.set(message.id, settings, image)
        if viewer.dream.begins:
            viewer.forget()
        if settings.model not in self._picked:
            self._picked.add(settings.model)
            self._picking.submit(self._prepare_beside, settings.model)

    def _order(self, viewer: Viewer, order: str) -> None:
        if order == "restart":
            viewer.dream.restart()
            viewer.forget()
        elif viewer.playing:
            raise UserError("step is for a dream that is paused")
        else:
            viewer.steps += 1

    def _prepare_beside(self, name: str) -> None:
        try:
            log.info("%s runs in %s", name, self.prepare(name))
        except Exception:  # the dream goes on as it did
            log.exception("could not find the fastest way to run %s", name)

    def _check_alive(self) -> None:
        if self.failure is not None:
            raise UserError(self.failure)

    # for those who want to know

    def stats(self) -> Stats:
        with self._changed:
            self._forget_old_frames()
            took = sorted(took for _, took in self._recent)
            networks = {name: way for name, (_, way) in self._networks.items()}
            counts = len(self._viewers), self._frames, self._seconds, self._calls, self._images
            return Stats(*counts, len(took) / WINDOW, took, networks)

    def _forget_old_frames(self) -> None:
        while self._recent and self._recent[0][0] < self._clock() - WINDOW:
            self._recent.popleft()

    # what the thread does

    def _run(self) -> None:
        try:
            while (jobs := self._due_jobs()) is not None:
                for job in jobs:
                    self._go_on(job, None)
                self._call_network()
        except BaseException as error:
            log.exception("the engine has died")
            with self._changed:
                self.failure = f"the engine has died ({type(error).__name__}: {error})"
                for viewer in self._viewers:
                    viewer.stop(self.failure)

    def _due_jobs(self) -> list[Job] | None:
        """What begins now. Waits until something does, or the network has work; None to stop."""
        with self._changed:
            while not self._stopping:
                for job, _ in self._line:
                    if not self._wants(job):
                        job.viewer.job = None
                self._line = deque((job, ask) for job, ask in self._line if self._wants(job))
                now = self._clock()
                due = [new for viewer in self._viewers if (new := self._begun(viewer, now)) is not None]
                if due or self._line:
                    return due
                soonest = min((viewer.due for viewer in self._viewers), default=math.inf)
                self._changed.wait(None if soonest == math.inf else max(0.0, soonest - now))
        return None

    def _begun(self, viewer: Viewer, now: float) -> Job | None:
        what = viewer.next(now)
        if what is None:
            return None
        viewer.job = Job(viewer, what, what.make(self.models[what.settings.model]), now)
        return viewer.job

    def _wants(self, job: Job) -> bool:
        """Whether its viewer still waits for it."""
        if job.viewer not in self._viewers:
            return False
        return isinstance(job.what, Traced) or job.viewer.dream.wants(job.what)

    def _call_network(self) -> None:
        """Answer those who have waited longest for one model, and let them go on."""
        batch: list[tuple[Job, Ask]] = []
        rest: deque[tuple[Job, Ask]] = deque()
        images = 0
        for job, ask in self._line:
            its_images = len(ask.x_t) * len(ask.told)
            if not batch or (job.model == batch[0][0].model and images + its_images <= BATCH):
                batch.append((job, ask))
                images += its_images
            else:
                rest.append((job, ask))
        self._line = rest
        if not batch:
            return
        name = batch[0][0].model
        answers = answer([ask for _, ask in batch], self.models[name], self._networks[name][0])
        with self._changed:
            self._calls += 1
            self._images += images
        for (job, ask), x0 in zip(batch, answers, strict=True):
            job.calls += len(ask.told)
            self._go_on(job, x0)

    def _go_on(self, job: Job, x0: Tensor | None) -> None:
        """Let a frame come to its next question, or its end, with the answer to its last one, or at its beginning."""
        try:
            ask = next(job.asks) if x0 is None else job.asks.send(x0)
        except StopIteration as end:
            self._land(job, end.value)
        except Exception as error:  # in the dream of this viewer alone
            log.exception("a dream has stopped")
            with self._changed:
                if job.viewer in self._viewers:
                    job.viewer.stop(f"the dream has stopped ({type(error).__name__}: {error})")
        else:
            self._line.append((job, ask))

    def _land(self, job: Job, made: Any) -> None:
        took = self._clock() - job.started
        packed = job.what.pack(made, job.calls, 1000 * took)
        viewer = job.viewer
        with self._changed:
            viewer.job = None
            if not self._wants(job):
                return
            if isinstance(job.what, Traced):
                viewer.traced.append(packed)
            else:
                viewer.dream.landed(job.what, made)
                viewer.behind, viewer.frame = viewer.frame is not None, packed
                self._frames += 1
                self._seconds += took
                self._recent.append((self._clock(), took))
                self._forget_old_frames()
            viewer.news()
