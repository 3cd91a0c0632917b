"""Environments for peers, made on demand beside this file and kept."""

import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent


class CannotInstallError(Exception):
    """A peer cannot be had here; the text says why."""


def environment(name: str) -> Path:
    """The folder of executables of `.venv-<name>`, installed from `requirements-<name>.txt` if that has not been done.

    Raises CannotInstallError with the installer's last words.
    """
    place = HERE / f".venv-{name}"
    wanted = HERE / f"requirements-{name}.txt"
    done = place / "installed"
    if not done.exists() or done.read_text() != wanted.read_text():
        print(f"  making {place.name} (once; LiteLLM's is 900 MB)", file=sys.stderr)
        venv.create(place, with_pip=True)
        command = [str(place / "bin/python"), "-m", "pip", "install", "--quiet", "--requirement", str(wanted)]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode:
            reason = (finished.stderr.strip().splitlines() or ["no reason given"])[-1]
            msg = f"pip could not install {wanted.name}: {reason}"
            raise CannotInstallError(msg)
        done.write_text(wanted.read_text())
    return place / "bin"


def package_version(executables: Path, package: str) -> str:
    """The version of a package installed in an environment, asked of its own interpreter."""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return said([str(executables / "python"), "-c", code])


def said(command: list[str]) -> str:
    """What a command prints, on either stream, without surrounding blanks."""
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    return (finished.stdout + finished.stderr).strip()
