"""What must be true of every gateway after whatever was done to it: nothing is held any more, and nothing went wrong inside."""

import re
from collections.abc import Mapping

from tests.kit.gateway import RunningGateway
from tests.kit.wait import eventually

_LOUD = re.compile(
    r"Exception in callback|never retrieved|Traceback|was never awaited|Fatal error|Unhandled|\"level\": \"error\""
)

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum of one metric's samples that have these labels."""
    wanted = set(labels.items())
    return sum(value for (found, has), value in samples.items() if found == name and wanted <= has)


async def at_rest(gateway: RunningGateway, timeout: float = 10) -> Samples:
    """Wait until no exchange is open and no upstream connection busy; the samples of that moment. Raises AssertionError."""
    last: list[Samples] = []

    async def rests() -> bool:
        last[:] = [await gateway.metrics()]
        assert last[0], "the gateway does not answer any more"
        busy = total(last[0], "streamgate_upstream_connections", state="active")
        return total(last[0], "streamgate_in_flight") == 0 and busy == 0

    await eventually(rests, timeout)
    return last[0]


def nothing_went_wrong(gateway: RunningGateway) -> None:
    """No exception that nobody caught in the log, no defect of the gateway's own in the records."""
    log = gateway.log_file.read_text()
    assert not (loud := _LOUD.search(log)), log[max(0, loud.start() - 2000) : loud.end() + 4000]
    broken = [record for record in gateway.records() if record["fault"] == "internal" or record["status"] == 500]
    assert not [record for record in broken if record["fault"] is not None], broken[:3]
    ids = [record["request_id"] for record in gateway.records()]
    twice = {one for one in ids if ids.count(one) > 1} if len(ids) < 3000 else set()
    assert not twice, f"recorded twice: {sorted(twice)[:5]}"
