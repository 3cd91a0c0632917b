"""``python -m streamgate.cli`` is ``streamgate``."""

from streamgate.cli.main import main

main()
