"""The data port's certificate: what is demanded and offered, and how it is renewed in place."""

import asyncio
import ssl
from pathlib import Path

import pytest
import trustme
from cryptography import x509

from streamgate.config.spec_gate import Tls
from streamgate.edge.tls import renew, server_context

NAME = "gate.example"


def write(folder: Path, ca: trustme.CA, *names: str) -> Tls:
    """Put a certificate into the folder, in the place of the last one."""
    made = ca.issue_cert(*(names or (NAME,)))
    made.private_key_pem.write_to_path(folder / "key.pem")
    made.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    return Tls(cert=folder / "cert.pem", key=folder / "key.pem")


async def shown(context: ssl.SSLContext, client: ssl.SSLContext) -> tuple[str, int]:
    """(the TLS version agreed on, the serial of the certificate that was shown)."""
    server = await asyncio.start_server(_talk, "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname=NAME)
        assert await reader.readexactly(2) == b"ok"
        tls = writer.get_extra_info("ssl_object")
        certificate = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True))
        writer.close()
        return tls.version(), certificate.serial_number


async def _talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"ok")
    await writer.drain()
    writer.close()


def believing(*authorities: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for authority in authorities:
        authority.configure_trust(context)
    return context


async def test_tls_12_at_least_and_http11_alone(tmp_path: Path) -> None:
    ca = trustme.CA()
    context = server_context(write(tmp_path, ca))
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_NONE
    version, _ = await shown(context, believing(ca))
    assert version == "TLSv1.3"


async def test_client_certificates_are_demanded_where_an_authority_is_named(tmp_path: Path) -> None:
    ca, clients = trustme.CA(), trustme.CA()
    clients.cert_pem.write_to_path(tmp_path / "clients.pem")
    settings = write(tmp_path, ca).model_copy(update={"client_ca": tmp_path / "clients.pem"})
    context = server_context(settings)
    bare, known, stranger = believing(ca), believing(ca), believing(ca)
    clients.issue_cert("me@example.com").configure_cert(known)
    trustme.CA().issue_cert("me@example.com").configure_cert(stranger)
    await shown(context, known)
    for client in (bare, stranger):
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await shown(context, client)


async def test_a_renewed_certificate_is_shown_to_whoever_comes_next(tmp_path: Path) -> None:
    first, second = trustme.CA(), trustme.CA()
    context = server_context(write(tmp_path, first))
    _, before = await shown(context, believing(first))
    renew(context, write(tmp_path, second))
    _, after = await shown(context, believing(second))
    assert before != after
    with pytest.raises(ssl.SSLError):
        await shown(context, believing(first))


@pytest.mark.parametrize("broken", ["key of another", "certificate of another", "half a file", "no file"])
async def test_a_pair_that_does_not_fit_changes_nothing(tmp_path: Path, broken: str) -> None:
    ca = trustme.CA()
    settings = write(tmp_path, ca)
    context = server_context(settings)
    _, before = await shown(context, believing(ca))
    if broken == "key of another":
        ca.issue_cert(NAME).private_key_pem.write_to_path(tmp_path / "key.pem")
    elif broken == "certificate of another":  # the new one is there already, its key is not
        ca.issue_cert(NAME).cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    elif broken == "half a file":
        (tmp_path / "cert.pem").write_bytes((tmp_path / "cert.pem").read_bytes()[:200])
    else:
        (tmp_path / "key.pem").unlink()
    with pytest.raises((ssl.SSLError, OSError)):
        renew(context, settings)
    _, after = await shown(context, believing(ca))
    assert before == after
