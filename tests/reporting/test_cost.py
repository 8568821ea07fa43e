"""What arms and stages cost. Run: python -m pytest tests/reporting/test_cost.py"""

import pytest

from pipeline.reporting import cost
from tests.reporting.test_answer import RECORDS

SECONDS = {"retrain-mixture": 20.0, "retrain-oversample": 10.0, "fit_generator-diffusion": 60.0, "evaluate": 5.0}
SECONDS |= {"generate-diffusion": 4.0, "pseudo_label-diffusion": 2.0, "fit_generator-cgan": 100.0}
SECONDS |= {"generate-cgan": 3.0, "pseudo_label-cgan": 1.0, "pseudo_label-nothing": 1.0}


def times(*gpu, device="cuda"):
    """The stages above; the networks of those named, or of all those of a kind, had a GPU."""
    on = {stage: device if stage.startswith(gpu) else "cpu" for stage in SECONDS}
    return [
        {"stage": stage, "seconds": s, "device": on[stage] if stage != "evaluate" else ""}
        for stage, s in SECONDS.items()
    ]


def test_an_arm_costs_its_training_and_its_generators(shipped):
    found = cost.costs(times(), RECORDS, shipped)
    assert found == {"oversample": 10.0, "mixture": 190.0}, "arms that were restored from the cache have no time"
    without = [t for t in times() if t["stage"] != "fit_generator-cgan"]
    assert cost.costs(without, RECORDS, shipped) == {"oversample": 10.0}, "nor those whose generator was"
    table = cost.cost_table(times(), RECORDS, shipped)
    assert table["seconds"].tolist() == ["10.0", "190.0", "206.0"] and table["GPU-hours"].tolist() == ["0", "0", "0"]


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_gpu_hours_are_those_of_stages_whose_networks_had_one(shipped, device):
    table = cost.cost_table(times("fit_generator", "generate", device=device), RECORDS, shipped)
    assert table["seconds"].tolist() == ["10.0", "190.0", "206.0"], "wall time counts all the same"
    assert table["GPU-hours"].tolist() == ["0", "0.046", "0.046"]  # 164 s


def test_the_price_in_a_sentence_is_honest_about_the_gpu(shipped):
    said = cost.sentence(times(), RECORDS, shipped, "mixture", "oversample")
    assert said == (
        "Cost: 190 s for mixture with its generators, 10 s for oversample (wall time of each stage's last run here; without a GPU, "
        "so 0 GPU-hours)."
    )
    assert "last run here; 0.052 and 0.003 GPU-hours)" in cost.sentence(
        times("fit", "gen", "retrain"), RECORDS, shipped, "mixture", "oversample"
    )
    assert "last run here; 0.046 and 0 GPU-hours)" in cost.sentence(
        times("fit", "gen"), RECORDS, shipped, "mixture", "oversample"
    )
    assert (
        cost.sentence(times(), RECORDS, shipped, "cvae", "oversample")
        == ""
        == cost.sentence([], RECORDS, shipped, "mixture", "oversample")
    )


def test_stages_stand_by_their_time_with_their_device_and_sum():
    table = cost.times_table(times("fit"))
    assert table.iloc[0].tolist() == ["fit_generator-cgan", "100.0", "cuda"]
    assert table.iloc[-1].tolist() == ["all stages", "206.0", ""]
    assert table.set_index("stage").loc["evaluate", "networks on"] == "" and len(cost.times_table([])) == 0


def arm(rows, also="nothing", tuned=False):
    return {"one": {"arm": {"rows": rows, "also": also, "tuned": tuned}}}


def test_an_arm_on_a_borrowed_model_costs_its_fit(shipped):
    """translate, whose own fit takes no time, seemed to cost next to nothing."""
    spent = {
        "retrain-one": 1.0,
        "fit_generator-translate": 0.0,
        "fit_generator-diffusion": 60.0,
        "generate-translate": 2.0,
    }
    spent |= {"generate-diffusion": 500.0, "fit_generator-cgan": 500.0, "pseudo_label-translate": 4.0}
    spent |= {"pseudo_label-diffusion": 5.0}
    times = [{"stage": stage, "seconds": s, "device": "cpu"} for stage, s in spent.items()]
    assert cost.costs(times, arm("translate"), shipped) == {"one": 67.0}
    assert cost.costs(times, arm("translate", "diffusion"), shipped) == {"one": 572.0}, "one fit, two generators"
    assert cost.costs(times, arm("heldback"), shipped) == {"one": 1.0}


def test_the_labels_of_the_pool_and_the_search_count_for_the_arms_that_need_them(shipped):
    full, quick = (shipped.model_copy(update={"profile": p}) for p in ("full", "quick"))
    made = {f"{step}-{g}": 0.5 for step in ("fit_generator", "generate", "pseudo_label") for g in ("diffusion", "gmm")}
    spent = {"retrain-one": 1.0, "label_pool": 10.0, "search": 100.0} | made
    times = [{"stage": stage, "seconds": s, "device": "cpu"} for stage, s in spent.items()]
    assert cost.costs(times, arm("nothing", "pool"), full) == {"one": 11.0}
    assert cost.costs(times, arm("diffusion", tuned=True), full) == {"one": 102.5}
    assert cost.costs(times, arm("diffusion", tuned=True), quick) == {"one": 2.5}, "a quick run has no search"
    assert cost.costs(times, arm("diffusion"), full) == cost.costs(times, arm("gmm", tuned=False), full) == {"one": 2.5}
    told = arm("diffusion", tuned=True)
    assert "for one with its generator and the whole search, " in cost.sentence(times, told, full, "one", "one")


def test_a_control_that_was_searched_for_is_said_to_cost_that_too(shipped):
    """Its seconds held the search, and the sentence gave them as if they were its own."""
    full = shipped.model_copy(update={"profile": "full"})
    told = arm("smote", tuned=True) | {"two": arm("nothing", tuned=False)["one"]}
    spent = {"retrain-one": 1.0, "retrain-two": 2.0, "search": 100.0}
    spent |= {"fit_generator-smote": 0.5, "generate-smote": 0.5, "pseudo_label-smote": 1.0}
    times = [{"stage": stage, "seconds": s, "device": "cpu"} for stage, s in spent.items()]
    said = cost.sentence(times, told, full, "two", "one")
    assert said.startswith("Cost: 2 s for two, 103 s for one with its generator and the whole search (wall time")
