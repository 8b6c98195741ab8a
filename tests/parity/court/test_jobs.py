"""Work in several processes: results as they come, keys kept together, failures told, nothing left running."""

import io
import os
import signal
import time
from itertools import pairwise

import pytest

from parity.court import jobs
from parity.court.jobs import Job
from parity.court.progress import Progress


def numbers(count, pause=0.0):
    for n in range(count):
        time.sleep(pause)
        yield n, os.getpid()


def fail():
    yield 1
    time.sleep(2)  # until the other has begun
    raise ValueError("a bad day")


def die():
    print("last words", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    yield 1


def forever():
    yield os.getpid()
    time.sleep(600)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_one_process_does_all_in_order():
    found = list(jobs.run([Job(numbers, (2,), title="a"), Job(numbers, (1,), title="b")]))
    assert [(job.title, result and result[0]) for job, result in found] == [
        ("a", 0), ("a", 1), ("a", None), ("b", 0), ("b", None),
    ]  # fmt: skip
    assert {result[1] for _, result in found if result} == {os.getpid()}


def test_two_processes_yield_results_as_they_come_and_keep_keys_together():
    work = [Job(numbers, (2, 0.2), key, title=f"{key}{n}") for n in range(2) for key in "ab"]
    begun, found = [], {}
    for job, result in jobs.run(work, 2, begun.append):
        if result is not None:
            assert job in begun
            found.setdefault(job.key, set()).add(result[1])
    assert len(begun) == 4
    assert all(len(pids) == 1 for pids in found.values())
    assert found["a"] != found["b"]
    assert not any(alive(pid) for pids in found.values() for pid in pids)


@pytest.mark.slow
def test_an_error_is_told_with_its_words_and_ends_the_others():
    results = jobs.run([Job(forever, title="long"), Job(fail, title="bad")], 2)
    found = [next(results), next(results)]  # one of each, in either order
    pids = [result for job, result in found if job.title == "long"]
    with pytest.raises(RuntimeError, match=r"(?s)'bad' failed:.*ValueError: a bad day"):
        list(results)
    assert len(pids) == 1
    assert not any(map(alive, pids))


def test_a_process_that_dies_is_told_with_what_it_wrote():
    with pytest.raises(RuntimeError, match=r"(?s)at 'dies' was ended by signal 9.*last words"):
        list(jobs.run([Job(numbers, (1,), title="lives"), Job(die, title="dies")], 2))


def test_whoever_stops_listening_leaves_no_process():
    results = jobs.run([Job(forever, title="a"), Job(forever, title="b")], 2)
    pids = [next(results)[1], next(results)[1]]
    assert all(map(alive, pids))
    results.close()
    assert not any(map(alive, pids))


def test_no_process_is_refused():
    with pytest.raises(ValueError, match="at least 1. Received: 0"):
        list(jobs.run([Job(numbers, (1,))], 0))


def test_the_line_of_progress_tells_share_and_time_left(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    progress = Progress(stream)
    a, b = Job(numbers, title="a", seconds=60), Job(numbers, title="b", seconds=60)
    progress.start([a, b], 2)
    progress.begun(a)
    progress.begun(b)
    assert progress.line() == "  0%  0:00 gone, about 1:00 left; now: a, b"
    clock[0] += 30
    assert progress.line().startswith(" 50%  0:30 gone, about 0:30 left")
    progress.done(a)
    assert progress.line().endswith("now: b")
    assert progress.line().startswith(" 75%")
    progress.done(b)
    assert progress.line() == "100%  0:30 gone, about 0:00 left; now: the rest"
    progress.stop()
    assert "\r" not in stream.getvalue()  # no terminal


def test_jobs_of_one_title_count_each(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    progress = Progress(io.StringIO())
    twins = [Job(numbers, title="runs", seconds=60) for _ in range(2)]
    progress.start(twins, 1)
    progress.begun(twins[0])
    clock[0] += 60
    progress.done(twins[0])
    assert progress.line().startswith(" 50%  1:00 gone, about 1:00 left; now: the rest")
    progress.begun(twins[1])
    assert progress.line().endswith("now: runs")
    progress.stop()


def test_the_line_moves_while_a_job_takes_longer_than_was_thought(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    progress = Progress(io.StringIO())
    job = Job(numbers, title="a", seconds=60)
    progress.start([job], 1)
    progress.begun(job)
    shares = []
    for clock[0] in (0, 30, 40, 50, 60, 80, 100, 120):
        shares.append(int(progress.line().split("%")[0]))
    assert shares[:3] == [0, 50, 67]
    assert all(a < b for a, b in pairwise(shares))
    assert shares[-1] < 100
    progress.stop()
