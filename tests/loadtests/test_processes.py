import mmap
import os
import socket
import subprocess
import sys

import pytest

from loadtests import processes


def test_stat_survives_a_name_with_blanks_and_parentheses() -> None:
    fields = " ".join(str(number) for number in range(4, 53))
    stat = processes.parse_stat(f"77 (a b) c) S {fields}")
    assert stat.parent == 4
    ticks = 14 + 15 + 16 + 17  # utime, stime, cutime, cstime by their numbers in proc_pid_stat(5)
    assert stat.cpu_s == pytest.approx(ticks / processes.TICKS_PER_S)


def test_processor_time_grows_with_work_also_of_children_that_have_ended() -> None:
    before = processes.cpu_s(os.getpid())
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
    assert processes.cpu_s(os.getpid()) - before >= 0.25


def test_tree_holds_children_and_grandchildren() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = processes.tree(os.getpid())
        assert found[0] == os.getpid()
        assert child.pid in found
        assert len(processes.tree(child.pid)) == 2
        child.communicate(b"\n")


def test_a_process_that_is_gone_has_no_tree_and_no_memory() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert processes.tree(gone.pid) == []
    assert processes.memory_bytes(gone.pid) == 0


def test_rollup_is_read_in_bytes() -> None:
    text = "5578-7ffc ---p 00000000 00:00 0   [rollup]\nRss:  1776 kB\nPss:   345 kB\nPss_Dirty: 112 kB\n"
    assert processes.parse_rollup(text) == {"Rss": 1776 * 1024, "Pss": 345 * 1024, "Pss_Dirty": 112 * 1024}


def test_memory_grows_with_what_is_held() -> None:
    before = processes.memory_bytes(os.getpid())
    held = mmap.mmap(-1, 16 * 2**20)  # of its own: what a list is made of may have been resident before
    held.write(b"x" * len(held))
    assert processes.memory_bytes(os.getpid()) - before > 12 * 2**20
    assert len(held) == 16 * 2**20


def test_socket_rows_are_read() -> None:
    text = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        "   0: 0100007F:1F90 0100007F:C350 02 00000000:00000000 00:00000000 00000000     0        0 424242 1 0\n"
    )
    assert processes.parse_sockets(text) == [processes.Socket(8080, 50000, "syn_sent", "424242")]


def test_sockets_are_counted_by_the_name_of_their_port_and_their_state() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client, server.accept()[0]:
            held = processes.sockets_of(os.getpid(), {port: "ours"})
            assert held["ours listen"] == 1
            assert held["ours established"] == 2  # both ends are this process
            inode = str(os.fstat(client.fileno()).st_ino)
            descriptor = processes.descriptor_of(os.getpid(), inode)
            assert descriptor is not None
            assert processes.holds(descriptor, inode)
        assert not processes.holds(descriptor, inode)


def test_sockets_of_others_are_not_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        assert processes.sockets_of(other.pid, {server.getsockname()[1]: "ours"}) == {}
        other.communicate(b"\n")


def test_the_proxy_gets_a_core_of_its_own() -> None:
    assert processes.choose_cores({5, 3}) == processes.Cores(proxy=3, upstream=5, client=5)
    assert processes.choose_cores({3, 5}).shared
    assert processes.choose_cores({0, 1, 2, 3}) == processes.Cores(proxy=0, upstream=1, client=3)
    with pytest.raises(ValueError, match="one of its own"):
        processes.choose_cores({0})


def test_what_is_spawned_while_pinned_runs_on_that_core_alone() -> None:
    ours = os.sched_getaffinity(0)
    core = max(ours)
    with processes.pinned(core):
        child = subprocess.run(
            [sys.executable, "-c", "import os; print(*os.sched_getaffinity(0))"], capture_output=True, text=True, check=True
        )
    assert child.stdout.split() == [str(core)]
    assert os.sched_getaffinity(0) == ours
