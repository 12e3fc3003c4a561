"""Read metrics.jsonl, the log of a run: one JSON object per line.

It is a log and not trusted input. A run never depends on it: a line that is damaged is left out and counted, and the
training goes on.
"""

import json
import sys
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def read_metrics(run: Path) -> list[Record]:
    """The records of metrics.jsonl. A note on stderr tells how many damaged lines were left out.

    A last line that a crash has truncated is left out without a note, as it never was a record.
    """
    records, damaged = parse_metrics(run)
    if damaged:
        print(f"note: {describe_damage(run, damaged)}", file=sys.stderr)
    return records


def parse_metrics(run: Path) -> tuple[list[Record], list[int]]:
    """The records of metrics.jsonl and the numbers of its damaged lines, from 1."""
    path = run / "metrics.jsonl"
    try:
        lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    except OSError:
        return [], [1]
    truncated = lines.pop()  # "" unless the file ends in the middle of a line
    records: list[Record] = []
    kept: list[int] = []  # numbers of lines
    damaged: list[int] = []
    for number, line in enumerate(lines, 1):
        record = _record(line)
        if record and records and not _follows(record, records[-1]):
            if len(records) == 1 or _follows(record, records[-2]):  # the wrong step of the line before would hide lines
                records.pop()
                damaged.append(kept.pop())
        if record is None or (records and not _follows(record, records[-1])):
            damaged.append(number)
        else:
            records.append(record)
            kept.append(number)
    last = _record(truncated)
    if last is not None and (not records or _follows(last, records[-1])):
        records.append(last)
    return records, sorted(damaged)


def describe_damage(run: Path, damaged: list[int]) -> str:
    """One sentence about the damaged lines."""
    lines = ", ".join(map(str, damaged[:5])) + (", …" if len(damaged) > 5 else "")
    return f"{run / 'metrics.jsonl'} has {len(damaged)} damaged line(s), which are left out: {lines}"


def _record(line: bytes) -> Record | None:
    """The record in a line; None if it is not one."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # not JSON, not UTF-8, or nested too deeply
        return None
    if not isinstance(record, dict) or not _is_count(record.get("step")):
        return None
    if "loss" in record:
        valid = _is_number(record["loss"]) and _is_number(record.get("lr", 0.0)) and _is_count(record.get("epoch", 1))
        return record if valid else None
    by_time = record.get("by_time")
    if not (_is_number(record.get("held_out")) and _is_count(record.get("epoch")) and isinstance(by_time, list)):
        return None
    pairs = all(isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair)) for pair in by_time)
    return record if pairs else None


def _follows(record: Record, previous: Record) -> bool:
    """Whether a record can come after another: steps grow, and an epoch's record follows that of its last step."""
    return bool(record["step"] > previous["step"] or (record["step"] == previous["step"] and "held_out" in record))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63)
