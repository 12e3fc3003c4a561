"""The engine: one thread that generates the frames of all viewers and batches their network calls.

Each frame in progress waits for the result of one request: x̂₀ of its x_t. The engine takes the request that has waited
longest, and all others for the same model, up to MAX_BATCH images. It makes one network call for them and passes each
x̂₀ back. Each frame then runs to its next request, which goes to the end of the queue, so all viewers get equal turns.

A slow viewer delays nobody. If a viewer has not fetched its last frame when the next one is finished, the new frame
replaces the old one, and the engine generates no more frames for this viewer until it has fetched that one.
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
from ..export.runtimes import eager_network, fastest_network
from ..models.model import Model, NetworkFunction
from ..models.options import SampleOptions
from .frames import Denoising, Dream, Frame, Request, Sample, Trace
from .network import denoise
from .settings import (
    ControlMessage,
    Message,
    RepaintMessage,
    SampleMessage,
    SetMessage,
    Settings,
    check_settings,
    decode_image,
    decode_mask,
)

# Maximum images per network call. On a CPU, an image in a batch of 16 takes 0.4 to 0.8 times as long as one alone, and
# larger batches gain nothing more.
MAX_BATCH = 32
IDLE_FPS = 60.0  # frame rate limit while frames need no network call
MAX_TRACES = 8  # traces and samples that can wait, per viewer
MAX_WAIT = 60.0  # seconds; a wait for a frame that is due much later, such as at 1e-300 fps, would raise an error
WINDOW = 10.0  # seconds over which frames per second are averaged
log = logging.getLogger(__name__)


# viewers


@dataclass(eq=False)
class Viewer:
    """A connected viewer: its settings, its playback state, and the results that wait to be fetched.

    At most one frame, MAX_TRACES traces or samples, and one error wait at a time.

    on_update         called by the engine's thread when there is something to fetch
    steps_left        frames to generate while paused
    requested_traces  traces and samples to generate
    job               the frame, trace or sample in progress
    last_start        when the latest frame was started, or scheduled to start
    frame             the latest frame, until it is fetched
    is_behind         whether a frame was replaced before it was fetched; no frame starts until the next fetch
    finished_traces   until they are fetched
    error             why generation stopped, until it is fetched
    """

    on_update: Callable[[], object]
    dream: Dream = field(default_factory=Dream)
    is_playing: bool = False
    steps_left: int = 0
    requested_traces: deque[Trace | Sample] = field(default_factory=deque)
    job: "Job | None" = None
    last_start: float = -math.inf
    frame: bytes | None = None
    is_behind: bool = False
    finished_traces: deque[bytes] = field(default_factory=deque)
    error: str | None = None

    @property
    def next_start(self) -> float:
        """When to start the next frame; infinity if playback is paused or has to wait."""
        is_active = self.is_playing or self.steps_left > 0
        if self.dream.settings is None or not is_active or self.job or self.is_behind:
            return math.inf
        return self.last_start + self._interval

    @property
    def _interval(self) -> float:
        """Minimum seconds between the starts of two frames."""
        settings = self.dream.settings
        assert settings is not None
        fps = 0.0 if self.steps_left else settings.fps
        return 1 / (fps or (IDLE_FPS if settings.stands_still else math.inf))

    def next_target(self, now: float) -> "Frame | Trace | None":
        """The frame or trace to start now; None if nothing is due."""
        if self.job:
            return None
        if self.requested_traces:
            return self.requested_traces.popleft()
        if self.dream.is_due:
            self.last_start = now
            return self.dream.next()
        if now < self.next_start:
            return None
        # a frame that starts a little late does not delay the one after it
        self.last_start = self.next_start if now - self.next_start < self._interval else now
        self.steps_left = max(0, self.steps_left - 1)
        return self.dream.next()

    def stop(self, error: str) -> None:
        """Stop playback and report why."""
        self.is_playing, self.steps_left, self.job, self.error = False, 0, None, error
        self.on_update()

    def discard_frame(self) -> None:
        """Drop the frame that waits to be fetched."""
        self.frame, self.is_behind = None, False


@dataclass(eq=False)
class Job:
    """A frame or trace in progress."""

    viewer: Viewer
    target: Frame | Trace
    denoising: Denoising[Any]
    started: float
    calls: int = 0

    @property
    def model(self) -> str:
        return self.target.settings.model


# the engine


class Stats(NamedTuple):
    """Statistics of an engine.

    frames, seconds    frames finished since the start, and the sum of their generation times
    calls, images      network calls since the start, and images in them
    frames_per_second  mean over the last WINDOW seconds
    frame_times        generation times, in seconds, of the frames in that window, in ascending order
    networks           for each model in use, how its network runs: "eager" or "onnxruntime"
    """

    viewers: int
    frames: int
    seconds: float
    calls: int
    images: int
    frames_per_second: float
    frame_times: list[float]
    networks: dict[str, str]


class Engine:
    """Generates frames for viewers, in a thread that runs from `start` to `stop`. All methods are thread-safe.

    models          by name; a model is looked up when a viewer first selects it, so a Catalog can load it then
    choose_network  chooses how to run a model's network, and names that choice; runs in the background when a viewer
                    first selects the model
    clock           returns the time in seconds
    failure         why the thread has stopped; None while it runs
    """

    failure: str | None = None

    def __init__(
        self,
        models: Mapping[str, Model],
        choose_network: Callable[[Model], tuple[NetworkFunction, str]] = fastest_network,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.models, self._choose_network, self._clock = models, choose_network, clock
        self._networks: dict[str, tuple[NetworkFunction, str]] = {}  # of the models that viewers have selected
        self._prepared: set[str] = set()  # models whose network has been chosen, or is being chosen
        self._background = ThreadPoolExecutor(1, "choose-network")
        self._changed = Condition()  # guards the viewers and the counters below
        self._viewers: dict[Viewer, None] = {}  # an ordered set
        self._is_stopping = False
        self._frames = self._calls = self._images = 0
        self._seconds = 0.0
        self._recent: deque[tuple[float, float]] = deque()  # (when a frame was finished, its generation time)
        self._queue: deque[tuple[Job, Request]] = deque()  # requests not answered yet; used by the engine's thread only
        self._thread = Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Cancel all frames in progress, and wait until the engine's threads have ended."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self._thread.join()
        self._background.shutdown(cancel_futures=True)

    def prepare(self, name: str) -> str:
        """Choose how to run the network of this model, use it from now on, and return its name, such as "eager"."""
        self._prepared.add(name)
        self._networks[name] = self._choose_network(self.models[name])
        return self._networks[name][1]

    # for viewers

    def join(self, on_update: Callable[[], object]) -> Viewer:
        """A new viewer. UserError if the engine has stopped."""
        with self._changed:
            self._check_running()
            viewer = Viewer(on_update)
            self._viewers[viewer] = None
            return viewer

    def leave(self, viewer: Viewer) -> None:
        """Remove a viewer and cancel its frames."""
        with self._changed:
            self._viewers.pop(viewer, None)
            self._changed.notify()

    def handle(self, viewer: Viewer, message: Message) -> None:
        """Carry out a message of a viewer. UserError if it is invalid; then nothing changes."""
        if isinstance(message, SetMessage | SampleMessage):
            self._load(message.settings.model)
        with self._changed:
            self._check_running()
            settings = viewer.dream.settings
            if isinstance(message, SetMessage):
                self._set(viewer, message)
            elif isinstance(message, ControlMessage) and message.type in ("play", "pause"):
                viewer.is_playing, viewer.steps_left = message.type == "play", 0
            elif settings is None:
                raise UserError(f'send "set" before "{message.type}"')
            elif isinstance(message, ControlMessage):
                self._step_or_restart(viewer, message.type)
            elif isinstance(message, RepaintMessage):
                viewer.dream.repaint(decode_mask(message.mask, self.models[settings.model]))
            elif isinstance(message, SampleMessage):
                self._check_settings(message.settings)
                self._request(viewer, Sample(message))
            else:
                options = SampleOptions(message.sampler, message.steps, message.eta)
                self.models[settings.model].resolve_sampling(options)  # raises if they are invalid
                frame = None if message.frame is None else viewer.dream.traceable(message.frame)
                self._request(viewer, Trace(message, settings, frame))
            self._changed.notify()

    def fetch(self, viewer: Viewer) -> bytes | str | None:
        """What to send to a viewer next: a frame or trace (bytes), an error (str), or None if nothing is finished."""
        with self._changed:
            if viewer.error is not None:
                error, viewer.error = viewer.error, None
                return error
            if viewer.finished_traces:
                return viewer.finished_traces.popleft()
            frame, viewer.frame = viewer.frame, None
            if viewer.is_behind:
                viewer.is_behind = False
                self._changed.notify()
            return frame

    def _request(self, viewer: Viewer, target: Trace | Sample) -> None:
        if len(viewer.requested_traces) + len(viewer.finished_traces) >= MAX_TRACES:
            raise UserError(f"{MAX_TRACES} traces are waiting already; try again later")
        viewer.requested_traces.append(target)

    def _load(self, name: str) -> None:
        """Look the model up, so that a Catalog loads it now and not while the engine waits for the lock."""
        if name not in self.models:
            raise UserError(f"there is no model {reprlib.repr(name)}; there are: {', '.join(self.models)}")
        self.models[name]

    def _check_settings(self, settings: Settings) -> Model:
        """The model of valid settings; it has been loaded."""
        model = self.models[settings.model]
        check_settings(settings, model)
        self._networks.setdefault(settings.model, (eager_network(model), "eager"))
        return model

    def _set(self, viewer: Viewer, message: SetMessage) -> None:
        settings = message.settings
        model = self._check_settings(settings)
        image = None if message.image is None else decode_image(message.image, settings.num, model)
        if settings.motion == "drift" and image is not None:
            raise UserError('a picture cannot drift: set motion to "melt", or leave the image out')
        if message.frame is not None and (
            (image is not None and message.frame) or not settings.is_sample(message.frame)
        ):
            raise UserError(f"a dream with these settings cannot start at frame {message.frame}; start it at frame 0")
        viewer.dream.set(message.id, settings, image, message.frame)
        if viewer.dream.restarting:
            viewer.discard_frame()
        if settings.model not in self._prepared:
            self._prepared.add(settings.model)
            self._background.submit(self._prepare_in_background, settings.model)

    def _step_or_restart(self, viewer: Viewer, action: str) -> None:
        if action == "restart":
            viewer.dream.restart()
            viewer.discard_frame()
        elif viewer.is_playing:
            raise UserError('send "pause" before "step"')
        else:
            viewer.steps_left += 1

    def _prepare_in_background(self, name: str) -> None:
        try:
            log.info("%s runs in %s", name, self.prepare(name))
        except Exception:  # the model keeps running in torch
            log.exception("could not choose the fastest way to run %s", name)

    def _check_running(self) -> None:
        if self.failure is not None:
            raise UserError(self.failure)

    # for monitoring

    def stats(self) -> Stats:
        with self._changed:
            self._drop_old_frames()
            frame_times = sorted(seconds for _, seconds in self._recent)
            networks = {name: backend for name, (_, backend) in list(self._networks.items())}
            counts = len(self._viewers), self._frames, self._seconds, self._calls, self._images
            return Stats(*counts, len(frame_times) / WINDOW, frame_times, networks)

    def _drop_old_frames(self) -> None:
        while self._recent and self._recent[0][0] < self._clock() - WINDOW:
            self._recent.popleft()

    # the engine's thread

    def _run(self) -> None:
        try:
            while (jobs := self._start_jobs()) is not None:
                for job in jobs:
                    self._advance(job, None)
                self._call_network()
        except BaseException as error:
            log.exception("the engine has stopped")
            with self._changed:
                self.failure = f"the engine has stopped ({type(error).__name__}: {error})"
                for viewer in self._viewers:
                    viewer.stop(self.failure)

    def _start_jobs(self) -> list[Job] | None:
        """The jobs that are due now. Waits until there is one, or a request in the queue; None if the engine stops."""
        with self._changed:
            while not self._is_stopping:
                for job, _ in self._queue:
                    if not self._is_current(job):
                        job.viewer.job = None
                self._queue = deque((job, request) for job, request in self._queue if self._is_current(job))
                now = self._clock()
                due = [new for viewer in self._viewers if (new := self._start_job(viewer, now)) is not None]
                if due or self._queue:
                    return due
                soonest = min((viewer.next_start for viewer in self._viewers), default=math.inf)
                self._changed.wait(None if soonest == math.inf else min(max(0.0, soonest - now), MAX_WAIT))
        return None

    def _start_job(self, viewer: Viewer, now: float) -> Job | None:
        target = viewer.next_target(now)
        if target is None:
            return None
        viewer.job = Job(viewer, target, target.generate(self.models[target.settings.model]), now)
        return viewer.job

    def _is_current(self, job: Job) -> bool:
        """Whether the viewer is still there and its dream has not restarted."""
        if job.viewer not in self._viewers:
            return False
        return isinstance(job.target, Trace | Sample) or job.viewer.dream.is_current(job.target)

    def _call_network(self) -> None:
        """Answer the requests that have waited longest for one model, and advance their jobs."""
        batch: list[tuple[Job, Request]] = []
        others: deque[tuple[Job, Request]] = deque()
        images = 0
        for job, request in self._queue:
            num = len(request.x_t) * len(request.passes)
            if not batch or (job.model == batch[0][0].model and images + num <= MAX_BATCH):
                batch.append((job, request))
                images += num
            else:
                others.append((job, request))
        self._queue = others
        if not batch:
            return
        name = batch[0][0].model
        predictions = denoise([request for _, request in batch], self.models[name], self._networks[name][0])
        with self._changed:
            self._calls += 1
            self._images += images
        for (job, request), x0 in zip(batch, predictions, strict=True):
            job.calls += len(request.passes)
            self._advance(job, x0)

    def _advance(self, job: Job, x0: Tensor | None) -> None:
        """Run a job to its next request or to its end. x0: the result of its last request; None to start the job."""
        try:
            request = next(job.denoising) if x0 is None else job.denoising.send(x0)
        except StopIteration as end:
            self._finish(job, end.value)
        except Exception as error:  # concerns this viewer only; the engine continues
            kind = "trace" if isinstance(job.target, Trace) else "frame"
            log.exception("could not generate a %s", kind)
            with self._changed:
                if job.viewer in self._viewers:
                    job.viewer.stop(f"stopped: could not generate the {kind} ({type(error).__name__}: {error})")
        else:
            self._queue.append((job, request))

    def _finish(self, job: Job, result: Any) -> None:
        """Hand the result of a job to its viewer: the images of a frame, or the steps of a trace."""
        seconds = self._clock() - job.started
        packed = job.target.pack(result, job.calls, 1000 * seconds)
        viewer = job.viewer
        with self._changed:
            viewer.job = None
            if not self._is_current(job):
                return
            if isinstance(job.target, Trace | Sample):
                viewer.finished_traces.append(packed)
            else:
                viewer.dream.store(job.target, result)
                viewer.is_behind, viewer.frame = viewer.frame is not None, packed
                self._frames += 1
                self._seconds += seconds
                self._recent.append((self._clock(), seconds))
                self._drop_old_frames()
            viewer.on_update()
