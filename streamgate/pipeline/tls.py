"""TLS towards upstreams: verified unless the configuration says otherwise in so many words."""

from __future__ import annotations

import ssl

from streamgate.config.spec_service import UpstreamTls


def upstream_context(settings: UpstreamTls | None) -> ssl.SSLContext:
    """A client context: TLS 1.2 or newer, the system's authorities or ``ca``, a certificate of our own where one is given.

    Raises OSError or ssl.SSLError where a file cannot be read.
    """
    context = ssl.create_default_context(cafile=str(settings.ca) if settings and settings.ca else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if settings is None:
        return context
    if settings.cert is not None:
        context.load_cert_chain(str(settings.cert), str(settings.key) if settings.key else None)
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
