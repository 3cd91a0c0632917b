"""The scripted server is up within the block, counts, and is gone after it."""

from pathlib import Path

import pytest

from tests.kit.ports import HOST
from tests.kit.scripted import scripted_server


async def test_it_counts_while_the_block_lasts(tmp_path: Path) -> None:
    with scripted_server(tmp_path) as server:
        assert server.url == f"http://{HOST}:{server.port}"
        assert (await server.stats())["started"] == 0
        assert (await server.reset())["open_streams"] == 0
    with pytest.raises(OSError, match="refused"):
        await server.stats()
