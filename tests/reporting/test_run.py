"""A finished run, made up on toy data, becomes the two reports. Run: python -m pytest tests/reporting/test_run.py"""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation import scores, verdict
from pipeline.evaluation.outcomes import Outcomes
from pipeline.params import Arm
from pipeline.reporting import answer, html, pictures
from pipeline.reporting import run as runs
from pipeline.samples import Samples
from pipeline.selection.rules import REASONS
from stages.retrain import added_rows
from stages.search import COLUMNS
from tests.conftest import toy_samples
from tests.reporting.test_data import ABOUT

SEEDS = 6
SHAPES = {
    "real": {"role": "control", "recipe": "plain"},
    "oversample": {"role": "control", "recipe": "balanced"},
    "cvae": {"role": "candidate", "rows": "cvae", "use": "kept", "recipe": "synthetic"},
    "cvae_quarter": {"role": "candidate", "rows": "cvae", "use": "kept", "recipe": "synthetic", "dose": "quarter"},
    "some_real": {"role": "oracle", "rows": "heldback", "recipe": "balanced", "dose": "quarter"},
    "more_real": {"role": "oracle", "rows": "heldback", "recipe": "balanced"},
}
SHARES = {"real": 0.6, "oversample": 0.6, "cvae": 0.8, "cvae_quarter": 0.7, "some_real": 0.7, "more_real": 0.9}


def settings(shipped, **evaluation):
    """The shipped params with these arms, and scarce rows set aside."""
    rest = {"rows": "nothing", "also": "nothing", "use": "all", "dose": "full", "tuned": False, "quick": True}
    return shipped.model_copy(
        update={
            "data": shipped.data.model_copy(update={"heldback": 0.3}),
            "generators": {g: shipped.generators[g] for g in ("nothing", "cvae")},
            "arms": {name: Arm(**(rest | shape)) for name, shape in SHAPES.items()},
            "evaluation": shipped.evaluation.model_copy(update={"bootstrap": 200, **evaluation}),
        }
    )


def answers(shares, rows):
    """What every arm says of rows with these classes: each of its seeds has a share of its own right."""
    said = {}
    for name, share in shares.items():
        guess = np.empty((SEEDS, len(rows)), np.int64)
        for s in range(SEEDS):
            right = np.random.default_rng(s).permutation(len(rows)) < (share + 0.004 * s) * len(rows)
            guess[s] = np.where(right, rows.y, (rows.y + 1) % len(rows.classes))
        said[name] = 0.1 + 0.7 * np.eye(len(rows.classes))[guess]
    return Outcomes(said, rows.y, np.arange(len(rows)), rows.classes)


def generated(real: Samples) -> Samples:
    made = toy_samples((0, 0, 60), seed=3, split="synthetic")
    keep = np.arange(len(made)) % 4 > 0
    nearest = {"nearest": real.table["id"].iloc[0], "copy_distance": np.linspace(0.1, 0.4, len(made))}
    said = {"keep": keep, "reason": np.where(keep, "", "unlike"), "judged": "c"}
    return made.with_columns(origin=["cvae"] * len(made), **said, **nearest)


def summary(rows: Samples) -> dict:
    dropped = dict.fromkeys(REASONS, 0) | {"unlike": int((~rows.table["keep"]).sum())}
    one = {
        "wanted": 27,
        "generated": len(rows),
        "kept": int(rows.table["keep"].sum()),
        "agreed": 40,
        "dropped": dropped,
    }
    said = {"copy_rule": {"distance": 0.05, "ratio": 0.4}, "refused": "", "warnings": []}
    return said | {"classes": {"c": one} if len(rows) else {}}


def audited() -> pd.DataFrame:
    """As the copy audit writes it, of one generator and one class."""
    lines = [("", s, m, 0.6) for s in ("pixels", "baseline", "encoder") for m in ("closer", "near", "auc", "tpr")]
    lines += [("", "model", m, 0.55) for m in ("auc", "tpr")] + [("c", "pixels", "closer", 0.7)]
    columns = ["class", "space", "measure", "value"]
    frame = pd.DataFrame(lines, columns=columns).assign(ci_low=0.5, ci_high=0.9, made=60, train=3, held=30)
    frame.insert(0, "generator", "cvae")
    return frame


def seen(rows: Samples) -> pd.DataFrame:
    """What two networks say: of rows 0 and 1 that both find near, of 2 to 4 the baseline alone, of the others neither."""
    far = np.where(np.arange(len(rows)) < 5, 0.5, 3.0)
    columns = {"id": rows.table["id"], "baseline": far, "encoder": np.where(np.arange(len(rows)) < 2, 0.5, 2.0)}
    return pd.DataFrame({"generator": "cvae"} | columns)


def record(params, name, real, made):
    """As retrain writes it, with the rows that the arm truly adds."""
    arm = params.arms[name]
    chosen = added_rows(params, arm, params.recipes[arm.recipe], real, [made[arm.rows]])
    learnt = np.bincount(made[arm.rows].y[chosen[0]], minlength=3).tolist()
    return {
        "settings": {"steps": 30, "batch": 8, "widths": [16], "fold": 1},
        "initial_weights": [f"{s:02x}" for s in range(SEEDS)],
        "slowed": [],
        "seeds": list(range(SEEDS)),
        "micro_batches": [1] * SEEDS,
        "policy": {"policy": "glyph", "flips": []},
        "arm": arm.model_dump(mode="json"),
        "synthetic_rows": dict(zip(real.classes, learnt, strict=True)),
        "pool_rows": 0,
        "machine": {"python": "3.12.1", "torch": "2.9.0", "device": "cuda, Toy 1", "precision": "bf16-mixed"},
    }


def about(real):
    counts = {"train": dict(zip(real.classes, real.counts.tolist(), strict=True)), "val": dict.fromkeys("abc", 30)}
    names = {"source": "toys", "image_size": 8, "channels": 1, "classes": list(real.classes), "scarce": ["c"]}
    numbers = {"imbalance_ratio": 10.0, "quarantined": 3, "leaking_groups": 0, "leaking_rows": 0, "heldback": 20}
    lists = {"near_examples": [], "warnings": [], "not_checked": ["wrong labels"]}
    names |= {"fingerprints": {split: f"print of {split}" for split in ("train", "val", "test", "heldback")}}
    return ABOUT | names | numbers | lists | {"counts": counts | {"test": dict.fromkeys("abc", 60)}}


def decided(params, records, test):
    held = answers(SHARES, toy_samples((30, 30, 30), seed=2, split="val"))
    rows = {name: sum(r["synthetic_rows"].values()) for name, r in records.items()}
    choices = verdict.choose(held, params.arms, rows, params.evaluation, 0)
    found = verdict.incomplete(verdict.decide(choices, test, params.arms, rows, params.evaluation, 0), {}, {})
    return choices, verdict.over_splits(found, [], 0, params.evaluation) | {
        "test": {"rows": len(test.y), "fingerprint": "00ff"},
        "controls": 1,
        "controls_left_out": [],
    }


def measured(test):
    rows = []
    for name in test.probabilities:
        for s, one in enumerate(test.probabilities[name]):
            rows += [(name, s, *line) for line in scores.scores(one, test.y, test.labels)]
            rows.append((name, s, "", "tuned_balanced_accuracy", 0.8))
            rows.append((name, s, "", "tempered_ece", 0.02))
    return pd.DataFrame(rows, columns=["arm", "seed", "class", "metric", "value"])


def finished(shipped, shares=SHARES, rows=60, **change) -> runs.Run:
    """A whole run whose classifiers are made up: known shares of their answers on so many test rows a class are right."""
    params, real = settings(shipped), toy_samples((30, 12, 3))
    spare = toy_samples((0, 0, 20), seed=4, split="heldback")
    made = {"nothing": toy_samples((0, 0, 0), seed=5), "cvae": generated(real), "heldback": spare}
    records = {name: record(params, name, real, made) for name in params.arms}
    test = answers(shares, toy_samples((rows, rows, rows), seed=1, split="test"))
    choices, found = decided(params, records, test)
    bins = [(n, *one) for n in SHARES for one in scores.reliability(test.probabilities[n], test.y)]
    steps = [(n, s, t, 1 / t, t / 40) for n in SHARES for s in range(SEEDS) for t in (10, 20)]
    fidelity = [
        ("cvae", label, space, m, 1.0, 0.1)
        for label in ("", "c")
        for space, m in (
            ("", "rows"),
            ("", "copies"),
            ("baseline", "frechet"),
            ("encoder", "frechet"),
            ("encoder", "coverage"),
        )
    ]
    done = {
        "params": params,
        "text": "seed: 0",
        "about": about(real),
        "verdict": found,
        "code": {"code": "commit 123abc, changed since in stages/report.py", "requirements.lock": "456def"},
        "openings": {"00ff": ["aa"]},
        "choices": choices,
        "pool": {"rows": 0, "classes": {}, "trials": [], "taken": "none"},
        "fitted_on": real,
        "scores": measured(test),
        "y": test.y,
        "predicted": {n: test.predicted(n) for n in SHARES},
        "reliability": pd.DataFrame(bins, columns=["arm", "confidence", "accuracy", "share"]),
        "records": records,
        "curves": pd.DataFrame(steps, columns=["arm", "seed", "step", "loss", "val_balanced_accuracy"]),
        "generators": {
            "nothing": {},
            "cvae": {
                "steps": 30,
                "parameters": 999,
                "restarts": 0,
                "slowed": False,
                "micro_batches": 1,
                "weights": "abcd",
            },
        },
        "losses": {"nothing": [], "cvae": [{"step": 10, "loss": 2.0}, {"step": 20, "loss": 1.0}]},
        "selections": {g: summary(made[g]) for g in ("nothing", "cvae")},
        "copies": audited(),
        "opinions": seen(made["cvae"]),
        "encoder": {"steps": 40, "curve": [], "slowed": False, "micro_batches": 1},
        "teachers": {
            **{"held_out_accuracy": 0.8, "held_out_ece": 0.1, "reliability": [(0.5, 0.4, 0.5), (0.9, 1.0, 0.5)]},
            "slowed": {"baseline": False, "teacher0": False},
            "micro_batches": {"baseline": 1, "teacher0": 1},
        },
        "fidelity": pd.DataFrame(fidelity, columns=["generator", "class", "space", "metric", "value", "spread"]),
        "train": real,
        "synthetic": {g: made[g] for g in ("nothing", "cvae")},
        "times": [{"stage": f"retrain-{n}", "seconds": 10.0, "device": "cuda"} for n in SHARES],
    }
    return runs.Run(**(done | {"tried": pd.DataFrame(columns=COLUMNS)} | change))


@pytest.fixture(scope="module")
def run(shipped) -> runs.Run:
    return finished(shipped)


def test_rows_set_aside_go_through_an_arm_into_the_reports(run):
    """Of 20 rows set aside the full dose takes all but none more, the quarter what it asks for."""
    added = {name: sum(r["synthetic_rows"].values()) for name, r in run.records.items()}
    assert added == {"real": 0, "oversample": 0, "cvae": 27, "cvae_quarter": 6, "some_real": 6, "more_real": 20}
    rate = run.verdict["exchange"]
    assert rate["arms"] == ["oversample", "some_real", "more_real"] and 6 < rate["real_rows"] < 20
    facts = runs.facts(run)
    page = html.page(facts | pictures.pictures(run, facts["metrics"]))
    words = (
        f"the 27 synthetic rows of cvae, with the recipe of that arm, are worth {rate['real_rows']:.0f} more real rows"
    )
    assert words in page and words in html.digest(facts)
    points = runs.plots(run, facts["metrics"])["doses"]
    assert set(points["curve"]) == {"cvae"} and points["rows"].tolist() == [6, 27], "that of the arm to judge"
    drawn = answer.doses(facts["metrics"], run.records, "balanced_accuracy")
    assert drawn[drawn["curve"] == "heldback, all"]["rows"].tolist() == [6, 20]


def test_the_reports_name_the_arm_that_carries_the_verdict_and_those_that_do_not(run):
    facts = runs.facts(run)
    words = facts["arms"].set_index("arm")["verdict, why"]
    assert run.verdict["verdict"] == "HELPS" and words["cvae"].startswith("HELPS: ") and words["real"] == ""
    assert "takes at least 7" in words["cvae_quarter"] and "takes at least 7" in html.digest(facts)


def test_everything_that_a_repetition_needs_stands_in_the_page(run):
    other = run.records["cvae"] | {"machine": run.records["cvae"]["machine"] | {"device": "cpu, x86_64"}}
    told = runs.hashes(replace(run, records=run.records | {"cvae": other})).set_index("what")["version or hash"]
    assert [told[f"{split} rows"] for split in ("training", "validation", "test")] == [
        f"print of {s}" for s in ("train", "val", "test")
    ]
    assert told["code"].startswith("commit 123abc") and told["requirements.lock"] == "456def"
    assert told["arms: python"] == "3.12.1" and told["arms: precision"] == "bf16-mixed"
    assert told["arms: device"] == "cuda, Toy 1; cpu, x86_64", "arms from a cache may come from another machine"


def test_what_is_set_is_no_auto(run):
    told = runs.automatic(run).set_index("key")["value"]
    assert told["classifier.steps"] == 30 and told["classifier.widths"] == "16" and "encoder.steps" in told
    block = run.params.classifier.model_copy(update={"steps": 30})
    other = runs.automatic(replace(run, params=run.params.model_copy(update={"classifier": block})))
    assert set(told.index) - set(other["key"]) == {"classifier.steps"}


def test_a_generator_that_failed_is_told_with_the_arms_that_did_without_it(run):
    failed = {"status": "failed", "reason": "the loss of Adversaries is nan by step 6", "model": "cvae", "options": {}}
    facts = runs.facts(replace(run, generators={"nothing": {}, "cvae": failed}))
    (warning,) = (w for w in facts["warnings"] if "failed" in w)
    assert warning == (
        "generator cvae failed and made no rows: the loss of Adversaries is nan by step 6; arms that learnt without "
        "its rows: cvae, cvae_quarter"
    )
    assert warning in html.digest(facts) and not any("failed" in w for w in runs.facts(run)["warnings"])


def test_what_makes_the_comparison_doubtful_stands_above_other_warnings(run):
    other = {"machine": run.records["cvae"]["machine"] | {"device": "cpu, x86_64"}, "slowed": [1]}
    found = run.verdict | {"over_negative": {"more_real": {"difference": 0.0, "ci_low": -0.1, "ci_high": 0.1}}}
    spoilt = run.records["more_real"] | {"arm": run.records["more_real"]["arm"] | {"role": "negative"}}
    records = run.records | {"cvae": run.records["cvae"] | other, "more_real": spoilt}
    facts = runs.facts(replace(run, records=records, verdict=found))
    unequal, unbeaten, slowed, few = facts["warnings"]
    assert "device cpu, x86_64, not cuda, Toy 1): arms cvae." in unequal and "half the learning rate" in slowed
    assert unbeaten.startswith("negative arm more_real is ")
    assert unequal in html.digest(facts).replace("\\`", "`")
    assert few.endswith("Intervals may be too narrow, for arms that agree on a few rows have no spread there")
    assert (
        runs.facts(run)["warnings"] == [few]
        and few.startswith(run.verdict["few_rows"])
        and " there are too few " in few
    )
    assert runs.facts(replace(run, verdict=run.verdict | {"few_rows": ""}))["warnings"] == []
    block = run.params.evaluation.model_copy(update={"margin": 0.0})
    without = run.params.model_copy(update={"evaluation": block})
    assert runs.facts(replace(run, params=without))["warnings"] == [], "of a margin of nothing there is nothing to say"


def test_an_arm_that_could_not_be_trained_is_told(run):
    facts = runs.facts(replace(run, verdict=run.verdict | {"failed": {"smote": "the loss is nan by step 6"}}))
    assert facts["warnings"][0] == "arm smote could not be trained and is not compared: the loss is nan by step 6"
    assert facts["warnings"][0] in html.digest(facts)
    assert not any("could not be trained" in w for w in runs.facts(run)["warnings"])


def test_an_arm_that_was_trained_at_half_the_rate_is_told(run):
    records = run.records | {"cvae": run.records["cvae"] | {"slowed": [1, 4]}}
    told = [w for w in runs.facts(replace(run, records=records))["warnings"] if "half the learning rate" in w]
    assert told == ["arm cvae: training diverged and went on at half the learning rate, in seeds 1, 4"]
    assert not any("half the learning rate" in w for w in runs.facts(run)["warnings"])


def test_a_teacher_that_was_trained_at_half_the_rate_is_told(run):
    teachers = run.teachers | {"slowed": {"baseline": False, "teacher0": True}}
    told = [w for w in runs.facts(replace(run, teachers=teachers))["warnings"] if "half the learning rate" in w]
    assert told == ["teacher0: training diverged and went on at half the learning rate"]


def test_an_encoder_that_was_trained_at_half_the_rate_is_told(run):
    told = runs.facts(replace(run, encoder=run.encoder | {"slowed": True}))["warnings"]
    assert [w for w in told if "half the" in w] == ["encoder: training diverged and went on at half the learning rate"]


def test_an_arm_and_a_generator_that_were_trained_in_pieces_are_told(run):
    records = run.records | {"cvae": run.records["cvae"] | {"micro_batches": [1, 4, 2] + [1] * (SEEDS - 3)}}
    about = run.generators | {"cvae": run.generators["cvae"] | {"micro_batches": 8}}
    teachers = run.teachers | {"micro_batches": {"baseline": 1, "teacher0": 4}}
    changed = {"teachers": teachers, "encoder": run.encoder | {"micro_batches": 2}}
    facts = runs.facts(replace(run, records=records, generators=about, **changed))
    assert [w for w in facts["warnings"] if "memory" in w] == [
        "arm cvae: there was not memory for whole batches, which were learnt from in up to 4 pieces, in seeds 1, 2",
        "teacher0: there was not memory for whole batches, which were learnt from in 4 pieces",
        "encoder: there was not memory for whole batches, which were learnt from in 2 pieces",
    ]
    automatic = facts["automatic"].set_index("key")["value"]
    assert automatic["generators.cvae"].endswith("each batch in 8 pieces for want of memory")
    assert not any("memory" in w for w in runs.facts(run)["warnings"])


@pytest.mark.parametrize("secret", [False, True])
def test_an_epsilon_is_told_with_what_it_does_not_cover(run, secret):
    said = {"epsilon": 7.9965, "delta": 0.00034, "rows": 288, "secret": secret}
    private = {"steps": 9, "parameters": 99, "guarantee": said}
    facts = runs.facts(replace(run, generators=run.generators | {"private": private}))
    (line,) = facts["promises"]
    assert line.startswith("private: fitted with differential privacy, epsilon 8.00 at delta 3.4e-04")
    assert "any one of the 288 training rows" in line and "k rows it is about k times" in line
    assert "which of them were kept" in line and "nor classifiers" in line and "anonym" not in line
    assert ("nothing is promised against anybody who knows" in line) is not secret
    assert ("cannot be repeated" in line) is secret and line.endswith(".") and not line.endswith("..")
    assert line in html.digest(facts)
    automatic = facts["automatic"].set_index("key")["value"]
    assert automatic["generators.private"] == "9 steps, 99 parameters"
    assert runs.facts(run)["promises"] == []


def test_rows_on_which_two_networks_disagree_are_shown(run, monkeypatch):
    facts, drawn, n = runs.facts(run), [], len(run.synthetic["cvae"])
    (line,) = facts["opinions"].to_dict("records")
    assert line["generator"] == "cvae" and line["rows"] == n and line["near for both"] == f"{100 * 2 / n:.0f} %"
    assert line["near for baseline alone"] == f"{100 * 3 / n:.0f} %" and line["near for encoder alone"] == "0 %"
    monkeypatch.setattr(pictures.figures, "grid", lambda images, rows, names, most: drawn.append((rows, names)) or b"")
    assert pictures.disputed(run, "cvae", run.synthetic["cvae"])
    ((rows, names),) = drawn
    assert names == ("near for baseline alone",) and sorted(rows[0]) == [2, 3, 4]
    agreed = run.opinions.assign(encoder=run.opinions["baseline"])
    assert not pictures.disputed(replace(run, opinions=agreed), "cvae", run.synthetic["cvae"])


def test_copies_among_the_disputed_rows_are_hidden_with_real_rows(run):
    rows = run.synthetic["cvae"]
    rows = rows.with_columns(reason=np.where(np.arange(len(rows)) == 3, "copy", rows.table["reason"]))
    hidden = run.params.model_copy(update={"report": run.params.report.model_copy(update={"show_real_images": False})})
    shown, without = (pictures.disputed(replace(run, params=p), "cvae", rows) for p in (run.params, hidden))
    assert shown and without and len(without) != len(shown)


def test_where_no_copy_is_looked_for_none_is_denied_and_hidden_real_rows_hide_all_rows(run):
    """A page once said that no copy was found, at a distance of -1."""
    blind = run.params.selection.model_copy(update={"copy_false_alarms": 0.0})
    hidden = run.params.report.model_copy(update={"show_real_images": False})
    for report, shown in ((run.params.report, True), (hidden, False)):
        one = replace(run, params=run.params.model_copy(update={"selection": blind, "report": report}))
        told = runs.facts(one)
        drawn = pictures.pictures(one, told["metrics"])
        page = html.page(told | drawn)
        assert bool(drawn["samples"]) is bool(drawn["pairs"]) is shown and drawn["some_made"]
        assert ("None is shown" in page) is not shown and "No generator made any rows" not in page
        assert "cvae: copies were not looked for" in page and "no copy found" not in page and "-1.0" not in page
        assert "copies are not looked for" in page and "A row within" not in page


def test_what_dvc_draws_is_of_the_arm_to_judge(run):
    """Bars of all arms stood on one another, and a line went through the points of all."""
    drawn = runs.plots(run, runs.facts(run)["metrics"])
    for name in ("recall", "reliability", "curves"):
        assert set(drawn[name]["arm"]) == {run.verdict["chosen_arm"]}, name
    assert drawn["curves"]["val_balanced_accuracy"].notna().all() and list(drawn["doses"])[3] == "score"
    assert not drawn["recall"]["class"].duplicated().any() and not drawn["curves"]["step"].duplicated().any()


def test_rows_of_a_generator_that_controls_use_too_stay_hidden(run):
    params = run.params
    arms = dict(params.arms)
    arms["copier"] = arms["oversample"].model_copy(update={"rows": "cvae"})
    hidden = {"report": params.report.model_copy(update={"show_real_images": False})}
    assert pictures.may_show(params.model_copy(update=hidden), "cvae")
    assert not pictures.may_show(params.model_copy(update=hidden | {"arms": arms}), "cvae")
