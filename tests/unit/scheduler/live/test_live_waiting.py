"""The queue of the live scheduler, under a clock of our own."""

from __future__ import annotations

from forebay.scheduler.live.waiting import Queue


def keys(queue: Queue, now: float) -> list[str]:
    return sorted(job.key for job in queue.due(now))


def test_a_failed_job_waits_for_a_change_and_for_its_back_off() -> None:
    queue = Queue(first=1, longest=4, flush=60)
    job = queue.add("a", "a", 0)
    assert keys(queue, 0) == ["a"]
    queue.failed(job, 0, "no room")
    assert keys(queue, 50) == []
    assert queue.counts() == {"active": 0, "backoff": 0, "unschedulable": 1}
    queue.stir()
    assert keys(queue, 50) == ["a"]
    queue.failed(job, 50, "no room")  # the second failure: two seconds
    queue.stir()
    assert keys(queue, 51) == []
    assert queue.counts()["backoff"] == 1
    assert queue.next_at(51) == 52
    assert keys(queue, 52) == ["a"]


def test_a_change_during_the_attempt_is_not_lost() -> None:
    queue = Queue()
    job = queue.add("a", "a", 0)
    seen = queue.stirs
    queue.stir()
    queue.failed(job, 0, "no room", seen=seen)
    assert keys(queue, 1) == ["a"]


def test_without_any_change_it_is_tried_after_the_flush() -> None:
    queue = Queue(flush=60)
    for n in range(3):
        queue.failed(queue.add(f"j{n}", f"u{n}", 0), float(n * 10), "no room")
    assert queue.next_at(20) == 60
    assert keys(queue, 59) == []
    assert keys(queue, 60) == ["j0"]
    assert queue.next_at(60) == 60
    queue.remove("j0", "u0")
    assert queue.next_at(61) == 70
    assert keys(queue, 80) == ["j1", "j2"]


def test_back_off_ends_at_its_longest() -> None:
    queue = Queue(first=1, longest=10)
    job = queue.add("a", "a", 0)
    for _ in range(70):
        queue.failed(job, 100, "no room")
    assert job.due_at == 110


def test_a_gang_that_grows_is_due_at_once() -> None:
    queue = Queue()
    job = queue.add("g", "u1", 5, gang="g")
    queue.failed(job, 0, "1 of 2 pods exist")
    assert keys(queue, 0) == []
    queue.add("g", "u2", 3, gang="g", priority=7)
    assert keys(queue, 0) == ["g"]
    assert (job.since, job.priority, list(job.pods)) == (3, 7, ["u1", "u2"])
    queue.remove("g", "u2")
    assert job.priority == 0  # its highest pod went


def test_who_returns_from_a_failed_binding_keeps_its_delay() -> None:
    queue = Queue()
    job = queue.add("g", "u1", 0, gang="g")
    queue.later(job, 0, 4)
    queue.add("g", "u2", 0, gang="g", hurry=False)
    assert keys(queue, 3) == []
    assert queue.next_at(0) == 4
    assert keys(queue, 4) == ["g"]


def test_what_is_gone_is_forgotten_wherever_it_was() -> None:
    queue = Queue()
    for key in ("due", "resting", "parked"):
        queue.add(key, key, 0)
    queue.later(queue.jobs["resting"], 0, 5)
    queue.failed(queue.jobs["parked"], 0, "no")
    for key in ("due", "resting", "parked"):
        queue.remove(key, key)
    queue.stir()
    assert keys(queue, 100) == []
    assert queue.next_at(100) is None
    assert len(queue) == 0
