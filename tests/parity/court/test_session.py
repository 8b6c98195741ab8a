"""How a hearing is shared out: without the frameworks, what shares models together, the longest first."""

import subprocess
import sys
import types

from parity.court import cases, ladder, lockstep, mutations, session, trials
from parity.court.jobs import Job


def all_jobs():
    names = [m.name for m in trials.chosen()]
    options = cases.Options()
    return [
        *session.ladder_jobs(options),
        *session.fault_jobs(names),
        *session.port_jobs(20),
        *session.sample_jobs(options.plan, list(mutations.RUNS)),
    ]


def test_who_shares_out_the_work_waits_for_no_framework():
    script = (
        "import sys; from parity.court import cases, report, session, trials;"
        "names = [m.name for m in trials.chosen()];"
        "session.in_order(session.ladder_jobs(cases.Options()) + session.fault_jobs(names) + session.port_jobs(20));"
        "print([name for name in ('tensorflow', 'keras', 'torch', 'jax') if name in sys.modules], len(names))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", str(len(mutations.MUTATIONS))]


def test_every_rung_model_fault_and_port_is_somebodys_work():
    work = all_jobs()
    titles = [job.title for job in work]
    assert len(set(titles)) == len(titles)
    for model, sizes in cases.MODELS.items():
        assert {f"{model} at {case}" for case in sizes} | {f"lockstep {model}"} <= set(titles)
    assert {"lockstep fine-tune", "optimizer", "correct ports"} <= set(titles)
    tried = [name for job in work if job.function is trials.try_mutations for name in job.arguments[0]]
    assert sorted([*tried, *mutations.RUNS]) == sorted(m.name for m in mutations.MUTATIONS)
    assert all(job.seconds > 0 for job in work)


def test_a_look_is_short_and_asking_for_lockstep_is_not(monkeypatch):
    asked, lengths = {}, []
    monkeypatch.setattr(lockstep, "track", lambda package, *common: lengths.append(common[3]) or package)
    monkeypatch.setattr(ladder, "_row", lambda *told: types.SimpleNamespace(size=told[5]))
    for look in (True, False):
        options = cases.Options(models=("b0", "stem-b0"), look=look)
        jobs = {job.title: job.seconds for job in session.ladder_jobs(options)}
        assert {"lockstep b0", "lockstep stem-b0", "b0 at 96"} <= set(jobs)
        assert ("lockstep fine-tune" in jobs) is not look
        assert ("B0 trains in lockstep for 4 steps of 20 and is not fine-tuned" in options.left_out) is look
        for model in options.models:
            list(ladder.compare_lockstep(model, options))
        asked[look] = {length.epochs * length.batches for length in lengths}
        lengths.clear()
    assert asked == {True: {4}, False: {4, 20}}


def test_what_is_built_once_goes_to_one_process():
    keys = {job.title: job.key for job in all_jobs()}
    assert (
        len({keys[t] for t in ("lockstep b0", "lockstep fine-tune", "planted faults, training", "correct ports")}) == 1
    )
    assert keys["planted faults, b0 at 64"] == keys["correct ports"]
    assert keys["lockstep stem-b0"] == keys["planted faults, stem-b0 at 64"]
    assert keys["lockstep b4"] == keys["b4 at 64"] == keys["planted faults, b4 at 64"]
    assert keys["optimizer"] == keys["planted faults, optimizer"]


def test_a_verdict_comes_soon_and_the_longest_group_is_not_last():
    work = session.in_order(all_jobs())
    assert work[0].title == "b0 at 96"
    total = {}
    for job in work:
        total[job.key] = total.get(job.key, 0) + job.seconds
    groups = [total[job.key] for job in work[1:]]
    assert groups == sorted(groups, reverse=True)
    assert (
        session.in_order([Job(print, title="a", seconds=1), Job(print, key="k", title="b", seconds=2)])[0].title == "b"
    )
