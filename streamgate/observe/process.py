"""What a worker says about its own process: memory, processor time, open files, tasks. Read from /proc at a scrape."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Iterable
from pathlib import Path

from streamgate.observe.metrics import Family, Sample


def process_families() -> Iterable[Family]:
    """Names as Prometheus' own clients use them; several workers add up."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    try:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        files = sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError:
        resident, files = 0, 0
    cpu_s = usage.ru_utime + usage.ru_stime
    tasks = len(asyncio.all_tasks())
    yield Family("process_resident_memory_bytes", "gauge", "Resident memory.", (), [Sample((), resident)])
    yield Family("process_open_fds", "gauge", "Open file descriptors.", (), [Sample((), files)])
    yield Family("process_cpu_seconds", "counter", "Processor time used.", (), [Sample((), cpu_s)])
    yield Family("streamgate_tasks", "gauge", "Tasks of the event loop.", (), [Sample((), tasks)])
    yield Family("streamgate_workers", "gauge", "Workers that answered this scrape.", (), [Sample((), 1)])
