"""Whether certificate files hold what a gate can use, asked before anything depends on it."""

import ssl
from pathlib import Path

_HINTS = {
    "KEY_VALUES_MISMATCH": "the key does not belong to the certificate; give the pair that was issued together",
    "NO_CERTIFICATE_OR_CRL_FOUND": "no certificate in PEM is found in it; give a file with one or more",
}


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
