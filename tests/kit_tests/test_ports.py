"""Ports that answer nobody, each in its own way."""

import socket

import pytest

from tests.kit.ports import HOST, black_hole, free_port, refused_port


def connect(port: int, timeout: float = 0.3) -> None:
    with socket.create_connection((HOST, port), timeout):
        pass


def test_a_free_port_can_be_listened_on() -> None:
    port = free_port()
    with socket.create_server((HOST, port)):
        connect(port)


def test_a_refused_port_refuses_and_cannot_be_taken() -> None:
    with refused_port() as port:
        with pytest.raises(ConnectionRefusedError):
            connect(port)
        with pytest.raises(OSError, match="in use"):
            socket.create_server((HOST, port))


def test_connecting_to_a_black_hole_neither_succeeds_nor_fails() -> None:
    with black_hole() as port, pytest.raises(TimeoutError):
        connect(port)
