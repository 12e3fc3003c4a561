"""Write TensorBoard's event files.

torch's SummaryWriter writes in a second thread, which dies with a traceback when the disk is full. This one writes when
it is called, so its caller sees the error.
"""

import os
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..common.errors import require

FLUSH_SECONDS = 10


class Board:
    """An event file in a new or existing folder. UserError without the extra `track`; OSError if the disk refuses.

    purge_step: TensorBoard forgets earlier records of this step and later ones, as of a run that was resumed
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        self._summary: Any = require("torch.utils.tensorboard.summary", "track")
        self._events: Any = require("tensorboard.compat.proto.event_pb2", "track")
        records: Any = require("tensorboard.summary.writer.record_writer", "track")
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{purge_step}"
        self._file = (folder / name).open("ab")
        self._writer = records.RecordWriter(self._file)
        self._last_flush = 0.0
        try:
            self._write(step=purge_step, file_version="brain.Event:2")
            start = self._events.SessionLog(status=self._events.SessionLog.START)
            self._write(step=purge_step, session_log=start)
        except OSError:
            self.close()
            raise

    def scalar(self, tag: str, value: float, step: int) -> None:
        self._write(step=step, summary=self._summary.scalar(tag, value))

    def image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """pixels: (H, W, 3) uint8"""
        self._write(step=step, summary=self._summary.image(tag, pixels, dataformats="HWC"))

    def close(self) -> None:
        self._file.close()

    def _write(self, **content: Any) -> None:
        event = self._events.Event(wall_time=time.time(), **content)
        self._writer.write(event.SerializeToString())
        if time.monotonic() - self._last_flush > FLUSH_SECONDS:
            self._file.flush()
            self._last_flush = time.monotonic()
