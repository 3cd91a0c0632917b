"""Certificate files are tried before anything depends on them."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from streamgate.config.certificates import files_of, identities, identities_of, why_unfit
from streamgate.config.load import load
from streamgate.config.problem import ConfigurationError
from streamgate.config.spec import Spec


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca")
    for name in ("one", "two"):
        leaf = authority.issue_cert("localhost")
        leaf.cert_chain_pems[0].write_to_path(folder / f"{name}.cert")
        leaf.private_key_pem.write_to_path(folder / f"{name}.key")
    key = load_pem_private_key((folder / "one.key").read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pass"))
    (folder / "locked.key").write_bytes(locked)
    (folder / "rubbish").write_text("-----BEGIN CERTIFICATE-----\nrubbish\n")
    (folder / "empty").write_text("")
    return folder


def test_a_pair_that_belongs_together_is_fit(folder: Path) -> None:
    assert why_unfit(folder / "one.cert", folder / "one.key", folder / "ca") is None
    assert why_unfit(None, None, folder / "ca") is None
    assert why_unfit(None, None, None) is None


@pytest.mark.parametrize(
    ("cert", "key", "ca", "where", "why"),
    [
        ("one.cert", "two.key", None, "cert", "does not belong to the certificate"),
        ("rubbish", "one.key", None, "cert", "not usable PEM"),
        ("one.cert", "empty", None, "cert", "not usable PEM"),
        ("one.cert", "locked.key", None, "cert", "unencrypted"),
        ("one.key", "one.cert", None, "cert", "not usable PEM"),
        (None, None, "empty", "ca", "no certificate in PEM"),
        (None, None, "rubbish", "ca", "no certificate in PEM"),
        ("one.cert", "one.key", "one.key", "ca", "no certificate in PEM"),
    ],
)
def test_what_cannot_be_used_is_told(
    folder: Path, cert: str | None, key: str | None, ca: str | None, where: str, why: str
) -> None:
    found = why_unfit(*(None if name is None else folder / name for name in (cert, key, ca)))
    assert found is not None
    assert found[0] == where
    assert why in found[1]


def test_a_file_that_cannot_be_read_is_another_s_question(folder: Path) -> None:
    assert why_unfit(folder / "nowhere", folder / "one.key", None) is None
    assert why_unfit(None, None, folder / "nowhere") is None


def test_the_configuration_says_where_it_stands(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "streamgate.yaml"
    file.write_text(
        dedent(f"""\
        gate:
          tls: {{cert: {folder}/one.cert, key: {folder}/two.key, client_ca: {folder}/ca}}
        services:
          - {{id: a, url: "https://a", tls: {{ca: {folder}/empty}}}}
        routes: [{{id: r, match: {{paths: [/]}}, to: {{service: a}}}}]
        """)
    )
    with pytest.raises(ConfigurationError) as caught:
        load(file, environ={})
    assert [(problem.path, problem.line) for problem in caught.value.problems] == [
        ("gate.tls.cert", 2),
        ("services[0].tls.ca", 4),
    ]


def test_every_file_is_known() -> None:
    service = {"id": "a", "url": "https://a", "tls": {"ca": "4", "cert": "5", "key": "6"}}
    plain = {"id": "b", "url": "https://b", "tls": {"verify": False}}
    spec = Spec.model_validate({"gate": {"tls": {"cert": "1", "key": "2", "client_ca": "3"}}, "services": [service, plain]})
    assert [str(path) for path in files_of(spec)] == list("123456")
    assert files_of(Spec()) == ()


def test_a_file_that_takes_another_s_place_is_another(tmp_path: Path) -> None:
    one, two, absent = tmp_path / "one", tmp_path / "two", tmp_path / "absent"
    one.write_text("1")
    two.write_text("2")
    before = identities((one, two, absent))
    assert identities((one, two, absent)) == before
    assert len(before) == 2
    two.replace(one)
    assert identities((one,)) != before[:1]
    assert identities_of(Spec()) == ()


def test_certificates_are_among_the_files_to_watch(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "streamgate.yaml"
    file.write_text(f"gate: {{tls: {{cert: {folder}/one.cert, key: {folder}/one.key}}}}\n")
    assert load(file, environ={}).files == (file, folder / "one.cert", folder / "one.key")
    file.write_text(f"gate: {{tls: {{cert: {folder}/one.cert, key: {folder}/two.key}}}}\n")
    with pytest.raises(ConfigurationError) as caught:
        load(file, environ={})
    assert caught.value.files == (file, folder / "one.cert", folder / "two.key"), "to see when they are mended"
