"""``python -m streamgate`` is ``streamgate``."""

from streamgate.cli.main import main

main()
