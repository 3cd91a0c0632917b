import pytest

from loadtests import wrk

GOOD = """Running 2s test @ http://127.0.0.1:8080/json
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.03ms  208.42us   5.10ms   92.02%
    Req/Sec    62.27k     2.01k   64.36k    90.00%
  123901 requests in 2.00s, 22.10MB read
Requests/sec:  61893.05
"""


def test_the_count_and_the_time_are_read() -> None:
    assert wrk.parse(GOOD) == wrk.Rate(123901, 2.0)
    assert wrk.parse(GOOD.replace("2.00s", "1.50m")) == wrk.Rate(123901, 90.0)
    assert wrk.parse(GOOD.replace("2.00s", "950.00ms")).seconds == pytest.approx(0.95)


@pytest.mark.parametrize("line", ["  Non-2xx or 3xx responses: 12", "  Socket errors: connect 0, read 3, write 0, timeout 0"])
def test_errors_are_no_requests(line: str) -> None:
    with pytest.raises(wrk.BadAnswersError, match=line.strip()[:12]):
        wrk.parse(GOOD + line + "\n")


def test_other_output_is_refused() -> None:
    with pytest.raises(ValueError, match="unable to connect"):
        wrk.parse("unable to connect to 127.0.0.1:8080 Connection refused")


def test_the_script_asks_for_what_our_own_client_would() -> None:
    assert wrk.JSON.script() == ""
    assert "wrk.method = 'POST'" in wrk.CHAT.script()
    assert wrk.CHAT.body.decode() in wrk.CHAT.script()
