"""The machine's clock and chance."""

import time

from streamgate.clock import SystemClock


def test_time_does_not_go_back_and_is_the_machines() -> None:
    clock = SystemClock()
    before = time.monotonic()
    first, second = clock.now(), clock.now()
    assert before <= first <= second <= time.monotonic()
    assert abs(clock.wall() - time.time()) < 60


def test_chance_is_a_fraction() -> None:
    clock = SystemClock()
    drawn = [clock.random() for _ in range(1_000)]
    assert all(0 <= number < 1 for number in drawn)
    assert len(set(drawn)) > 990


def test_tokens_have_their_size_and_never_come_twice() -> None:
    clock = SystemClock()
    sizes = [1, 8, 16, 24, 8_191, 8_192, 8_193, 20_000] * 3
    assert [len(clock.token(size)) for size in sizes] == sizes
    tokens = [clock.token(16) for _ in range(5_000)]
    assert len(set(tokens)) == len(tokens)


def test_two_clocks_do_not_hand_out_the_same() -> None:
    assert len({SystemClock().token(16) for _ in range(20)}) == 20


def test_a_token_is_not_made_of_the_one_before() -> None:
    clock = SystemClock()
    bits = sum(bin(byte).count("1") for byte in clock.token(8_000))
    assert 30_000 < bits < 34_000
