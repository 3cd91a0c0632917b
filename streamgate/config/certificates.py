"""Files that certificates and keys stand in: which a configuration names, whether they can be used, and whether they have
become others. A certificate is renewed in its file, without a word in the configuration.
"""

import ssl
from pathlib import Path
from typing import TypeAlias

from streamgate.config.spec import Spec

Identities: TypeAlias = tuple[tuple[str, int, int], ...]
"""What tells files from those that take their places."""

_HINTS = {
    "KEY_VALUES_MISMATCH": "the key does not belong to the certificate; give the pair that was issued together",
    "NO_CERTIFICATE_OR_CRL_FOUND": "no certificate in PEM is found in it; give a file with one or more",
}


def files_of(spec: Spec) -> tuple[Path, ...]:
    """Every file of a certificate, a key or an authority that a configuration names."""
    tls = spec.gate.tls
    named = [tls.cert, tls.key, tls.client_ca] if tls is not None else []
    for service in spec.services:
        if (own := service.tls) is not None:
            named += [own.ca, own.cert, own.key]
    return tuple(path for path in named if path is not None)


def identities(paths: tuple[Path, ...]) -> Identities:
    """What these files are now. One that is not there is left out."""
    found = []
    for path in paths:
        try:
            about = path.stat()
        except OSError:
            continue
        found.append((str(path), about.st_ino, about.st_mtime_ns))
    return tuple(found)


def identities_of(spec: Spec) -> Identities:
    """What all files are now that a configuration names."""
    return identities(files_of(spec))


def why_unfit(cert: Path | None, key: Path | None, ca: Path | None) -> tuple[str, str] | None:
    """(which of `cert` and `ca`, why it cannot be used) or None. Files that cannot be read are another's question."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if cert is not None:
        try:
            context.load_cert_chain(str(cert), None if key is None else str(key), password=_no_password)
        except ssl.SSLError as error:
            return "cert", _sentence(error, "certificate and key are not usable PEM; give unencrypted files")
        except OSError:
            return None
    if ca is not None:
        try:
            context.load_verify_locations(str(ca))
        except ssl.SSLError as error:
            return "ca", _sentence(error, "no certificate in PEM is found in it; give a file with one or more")
        except OSError:
            return None
    return None


def _sentence(error: ssl.SSLError, otherwise: str) -> str:
    return _HINTS.get(error.reason or "", otherwise)


def _no_password() -> str:
    return ""  # else OpenSSL would ask the terminal
