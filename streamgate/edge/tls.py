"""TLS on the data port: one context that outlives reloads, its certificate replaced in place."""

from __future__ import annotations

import ssl

from streamgate.config.spec_gate import Tls


def server_context(settings: Tls) -> ssl.SSLContext:
    """TLS 1.2 or newer, HTTP/1.1 by ALPN, client certificates demanded where ``client_ca`` is set (RFC 9325).

    Raises OSError or ssl.SSLError where a file cannot be read or a key does not fit.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(str(settings.cert), str(settings.key))
    if settings.client_ca is not None:
        context.load_verify_locations(str(settings.client_ca))
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def renew(context: ssl.SSLContext, settings: Tls) -> None:
    """Put the files' present certificate in place for new connections. The pair is tried on a context of its own first, so
    that a half-written one changes nothing. Raises OSError or ssl.SSLError.
    """
    server_context(settings)
    context.load_cert_chain(str(settings.cert), str(settings.key))
    if settings.client_ca is not None:
        context.load_verify_locations(str(settings.client_ca))  # further authorities; none is forgotten before a restart
