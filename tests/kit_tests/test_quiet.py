"""The checks that end a story fail when they should."""

import json
from pathlib import Path
from typing import Any, cast

import pytest

from tests.kit.gateway import RunningGateway
from tests.kit.quiet import at_rest, nothing_went_wrong, total

RECORD = {"request_id": "r-1", "fault": None, "status": 200}


class Left:
    """What a gateway has left behind."""

    def __init__(self, folder: Path, log: str = "", *records: dict[str, Any]) -> None:
        self.log_file = folder / "gateway.log"
        self.log_file.write_text(log)
        self._records = [json.loads(json.dumps(record)) for record in records]
        self.samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}

    def records(self) -> list[dict[str, Any]]:
        return self._records

    async def metrics(self) -> Any:
        return self.samples


def left(*args: Any) -> RunningGateway:
    return cast("RunningGateway", Left(*args))


def test_a_quiet_end_is_quiet(tmp_path: Path) -> None:
    nothing_went_wrong(left(tmp_path, '{"level": "info", "message": "drained"}\n', RECORD, {**RECORD, "request_id": "r-2"}))


@pytest.mark.parametrize(
    "line",
    [
        "Exception in callback Connection.x()",
        "Task exception was never retrieved",
        "Future exception was never retrieved",
        "Traceback (most recent call last):",
        '{"level": "error", "message": "background task failed"}',
    ],
)
def test_a_loud_log_is_heard(tmp_path: Path, line: str) -> None:
    with pytest.raises(AssertionError):
        nothing_went_wrong(left(tmp_path, f"all is well\n{line}\n", RECORD))


@pytest.mark.parametrize("records", [[{**RECORD, "fault": "internal", "status": 500}], [RECORD, RECORD]])
def test_a_defect_and_a_second_record_are_seen(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    with pytest.raises(AssertionError):
        nothing_went_wrong(left(tmp_path, "", *records))


async def test_rest_is_waited_for_and_a_dead_gateway_is_not_at_rest(tmp_path: Path) -> None:
    busy = Left(tmp_path)
    with pytest.raises(AssertionError, match="does not answer"):
        await at_rest(cast("RunningGateway", busy), 0.05)
    busy.samples = {("streamgate_in_flight", frozenset({("route", "r")})): 1.0}
    with pytest.raises(AssertionError, match="not within"):
        await at_rest(cast("RunningGateway", busy), 0.05)
    busy.samples = {("streamgate_in_flight", frozenset({("route", "r")})): 0.0}
    assert total(await at_rest(cast("RunningGateway", busy), 0.05), "streamgate_in_flight", route="r") == 0
