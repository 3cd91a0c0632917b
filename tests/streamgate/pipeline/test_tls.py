"""Whom we believe upstream, and whom we tell that we are, by handshakes in memory."""

import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from streamgate.config.spec_service import UpstreamTls
from streamgate.pipeline.tls import upstream_context

NAME = "model.example"


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(str(file))
    return str(file)


def settings(**given: Any) -> UpstreamTls:
    return UpstreamTls.model_validate(given)


def server(ca: trustme.CA, *, clients: trustme.CA | None = None, newest: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(NAME).configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    if clients is not None:
        clients.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    if newest is not None:
        context.minimum_version, context.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, newest
    return context


def shake(client: ssl.SSLContext, server: ssl.SSLContext, name: str = NAME) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Let both shake hands; raises ssl.SSLError as the one that objects does."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [client.wrap_bio(down, up, server_hostname=name), server.wrap_bio(up, down, server_side=True)]
    waiting = list(sides)
    for _ in range(10):
        for side in tuple(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)
    assert not waiting
    return sides[0], sides[1]


def test_the_systems_authorities_are_believed_and_nobody_else(ca: trustme.CA) -> None:
    context = upstream_context(None)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(context, server(ca))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(upstream_context(settings()), server(ca))


def test_a_named_authority_is_believed_and_http11_is_spoken(ca: trustme.CA, ca_file: str) -> None:
    ours, _ = shake(upstream_context(settings(ca=ca_file)), server(ca))
    assert ours.selected_alpn_protocol() == "http/1.1"


def test_in_place_of_the_systems_not_beside_them(ca_file: str) -> None:
    assert upstream_context(settings(ca=ca_file)).cert_store_stats()["x509_ca"] == 1


def test_another_authority_is_not(ca_file: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(upstream_context(settings(ca=ca_file)), server(trustme.CA()))


def test_the_name_is_checked(ca: trustme.CA, ca_file: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"(?i)hostname mismatch"):
        shake(upstream_context(settings(ca=ca_file)), server(ca), name="other.example")


def test_anybody_is_believed_only_on_demand() -> None:
    shake(upstream_context(settings(verify=False)), server(trustme.CA()), name="other.example")


def test_nothing_older_than_tls_12(ca: trustme.CA, ca_file: str) -> None:
    assert upstream_context(None).minimum_version is ssl.TLSVersion.TLSv1_2
    context = upstream_context(settings(ca=ca_file))
    ours, _ = shake(context, server(ca, newest=ssl.TLSVersion.TLSv1_2))
    assert ours.version() == "TLSv1.2"


def test_our_certificate_is_shown_to_whoever_asks(ca: trustme.CA, ca_file: str, tmp_path: Path) -> None:
    clients = trustme.CA()
    issued = clients.issue_cert("gateway.example")
    (tmp_path / "cert.pem").write_bytes(issued.cert_chain_pems[0].bytes())
    (tmp_path / "key.pem").write_bytes(issued.private_key_pem.bytes())
    ours = settings(ca=ca_file, cert=str(tmp_path / "cert.pem"), key=str(tmp_path / "key.pem"))
    _, theirs = shake(upstream_context(ours), server(ca, clients=clients))
    shown = theirs.getpeercert()
    assert shown is not None
    assert ("DNS", "gateway.example") in shown["subjectAltName"]
    with pytest.raises(ssl.SSLError):
        shake(upstream_context(settings(ca=ca_file)), server(ca, clients=clients))


@pytest.mark.parametrize("name", ["ca", "cert"])
def test_what_cannot_be_read_is_said(name: str, tmp_path: Path) -> None:
    given = {name: str(tmp_path / "none.pem")} | ({"key": str(tmp_path / "none.key")} if name == "cert" else {})
    with pytest.raises(FileNotFoundError):
        upstream_context(settings(**given))
    (tmp_path / "none.pem").write_text("no certificate")
    with pytest.raises((ssl.SSLError, FileNotFoundError)):
        upstream_context(settings(**given))
