"""A body that is at hand."""

from streamgate.pipeline.whole import Whole


def test_all_of_it_is_there_and_given_at_once_each_time() -> None:
    body = Whole(b"hello")
    assert (body.length, body.received, body.replay) == (5, 5, b"hello")
    assert (body.complete, body.chunked, body.trailers) == (True, False, [])
    given: list[tuple[bytes, bool]] = []
    for _ in range(2):
        body.attach(lambda data, last: given.append((data, last)), lambda: True)
        body.detach()
    assert given == [(b"hello", True)] * 2
