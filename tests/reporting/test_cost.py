"""What arms and stages cost. Run: python -m pytest tests/reporting/test_cost.py"""

import pytest

from pipeline.reporting import cost
from tests.reporting.test_answer import RECORDS

SECONDS = {"retrain-mixture": 20.0, "retrain-oversample": 10.0, "fit_generator-diffusion": 60.0, "evaluate": 5.0}
SECONDS |= {"generate-diffusion": 4.0, "pseudo_label-diffusion": 2.0, "fit_generator-cgan": 100.0}
SECONDS |= {"pseudo_label-nothing": 1.0}


def times(*gpu, device="cuda"):
    """The stages above; the networks of those named, or of all those of a kind, had a GPU."""
    on = {stage: device if stage.startswith(gpu) else "cpu" for stage in SECONDS}
    return [
        {"stage": stage, "seconds": s, "device": on[stage] if stage != "evaluate" else ""}
        for stage, s in SECONDS.items()
    ]


def test_an_arm_costs_its_training_and_its_generators():
    found = cost.costs(times(), RECORDS)
    assert found == {"oversample": 11.0, "mixture": 186.0}, "arms that were restored from the cache have no time"
    table = cost.cost_table(times(), RECORDS)
    assert table["seconds"].tolist() == ["11.0", "186.0", "202.0"] and table["GPU-hours"].tolist() == ["0", "0", "0"]


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_gpu_hours_are_those_of_stages_whose_networks_had_one(device):
    table = cost.cost_table(times("fit_generator", "generate", device=device), RECORDS)
    assert table["seconds"].tolist() == ["11.0", "186.0", "202.0"], "wall time counts all the same"
    assert table["GPU-hours"].tolist() == ["0", "0.046", "0.046"]  # 164 s


def test_the_price_in_a_sentence_is_honest_about_the_gpu():
    said = cost.sentence(times(), RECORDS, "mixture", "oversample")
    assert said == (
        "Cost: 186 s for mixture with its generator, 11 s for oversample (wall time; without a GPU, so 0 GPU-hours)."
    )
    assert "(wall time; 0.051 and 0.003 GPU-hours)" in cost.sentence(
        times("fit", "gen", "retrain"), RECORDS, "mixture", "oversample"
    )
    assert "(wall time; 0.046 and 0 GPU-hours)" in cost.sentence(times("fit", "gen"), RECORDS, "mixture", "oversample")
    assert (
        cost.sentence(times(), RECORDS, "cvae", "oversample")
        == ""
        == cost.sentence([], RECORDS, "mixture", "oversample")
    )


def test_stages_stand_by_their_time_with_their_device_and_sum():
    table = cost.times_table(times("fit"))
    assert table.iloc[0].tolist() == ["fit_generator-cgan", "100.0", "cuda"]
    assert table.iloc[-1].tolist() == ["all stages", "202.0", ""]
    assert table.set_index("stage").loc["evaluate", "networks on"] == "" and len(cost.times_table([])) == 0
