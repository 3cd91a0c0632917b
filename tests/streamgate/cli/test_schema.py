"""The language is printed as it is."""

from __future__ import annotations

import json

from click.testing import CliRunner

from streamgate.cli.main import main
from streamgate.config.schema import json_schema


def test_the_schema_is_printed() -> None:
    result = CliRunner().invoke(main, ["schema"])
    assert result.exit_code == 0
    assert json.loads(result.output) == json_schema()
