"""TLS towards upstreams, tried on a server that speaks it."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from streamgate.config.spec_service import UpstreamTls
from streamgate.pipeline.tls import upstream_context
from tests.kit.upstream import HOST, RawUpstream

AUTHORITY, STRANGER = trustme.CA(), trustme.CA()


def serving(authority: trustme.CA = AUTHORITY, *, asks: trustme.CA | None = None, name: str = HOST) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    if asks is not None:
        asks.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def trusting(tmp_path: Path, authority: trustme.CA = AUTHORITY, **more: Any) -> ssl.SSLContext:
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    return upstream_context(UpstreamTls.model_validate({"ca": str(file), **more}))


async def shake(server: ssl.SSLContext, client: ssl.SSLContext, name: str = HOST) -> ssl.SSLObject:
    """Connect, and hear one byte, since a refused certificate of ours shows only then."""
    async with RawUpstream(tls=server) as upstream:
        upstream.answer_with(lambda _: b"x")
        reader, writer = await asyncio.open_connection(HOST, upstream.port, ssl=client, server_hostname=name)
        try:
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            if await reader.read(1) != b"x":
                raise ConnectionError("it was closed without a word")
            found: ssl.SSLObject = writer.get_extra_info("ssl_object")
            return found
        finally:
            writer.transport.abort()


async def test_only_whom_the_authority_vouches_for_is_believed(tmp_path: Path) -> None:
    await shake(serving(), trusting(tmp_path))
    with pytest.raises(ssl.SSLCertVerificationError):
        await shake(serving(STRANGER), trusting(tmp_path))
    with pytest.raises(ssl.SSLCertVerificationError):
        await shake(serving(), upstream_context(None))
    with pytest.raises(ssl.SSLCertVerificationError):
        await shake(serving(), upstream_context(UpstreamTls()))


async def test_the_name_is_checked(tmp_path: Path) -> None:
    await shake(serving(name="model.example"), trusting(tmp_path), "model.example")
    with pytest.raises(ssl.SSLCertVerificationError):
        await shake(serving(name="model.example"), trusting(tmp_path), "other.example")


async def test_anybody_is_believed_where_that_was_asked_for(tmp_path: Path) -> None:
    await shake(serving(STRANGER, name="other.example"), trusting(tmp_path, verify=False))


async def test_http_1_is_agreed_upon(tmp_path: Path) -> None:
    assert (await shake(serving(), trusting(tmp_path))).selected_alpn_protocol() == "http/1.1"


async def test_old_versions_are_not_spoken(tmp_path: Path) -> None:
    for settings in (None, UpstreamTls(), UpstreamTls(verify=False)):
        assert upstream_context(settings).minimum_version >= ssl.TLSVersion.TLSv1_2


async def test_a_certificate_of_ours_is_shown_where_one_is_given(tmp_path: Path) -> None:
    ours = STRANGER.issue_cert("gate.example")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(b"".join(part.bytes() for part in ours.cert_chain_pems))
    ours.private_key_pem.write_to_path(str(key))
    await shake(serving(asks=STRANGER), trusting(tmp_path, cert=str(cert), key=str(key)))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await shake(serving(asks=STRANGER), trusting(tmp_path))


async def test_files_that_cannot_be_used_are_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        upstream_context(UpstreamTls.model_construct(ca=tmp_path / "absent.pem"))
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("no certificate")
    with pytest.raises((ssl.SSLError, OSError)):
        upstream_context(UpstreamTls.model_construct(ca=rubbish))
    with pytest.raises((ssl.SSLError, OSError)):
        upstream_context(UpstreamTls.model_construct(ca=None, cert=rubbish, key=rubbish))
