"""Where two networks disagree about a row: near to training rows in the eyes of one, and far from all in those of the other.

It decides nothing: either may be wrong where few pictures taught it. It is shown, so that people may look.
"""

import numpy as np
import pandas as pd

NEAR = 1.0  # as far as 95 % of training rows lie at most from those of other groups
SIDES = ("both", "baseline alone", "encoder alone", "neither")


def sides(found: pd.DataFrame) -> np.ndarray:
    """Which of the networks find each row near, one of SIDES, str (N,); "" where that is not known.

    `found` has the columns of results/opinions.csv.
    """
    near = [found[network].to_numpy() <= NEAR for network in ("baseline", "encoder")]
    told = np.select([near[0] & near[1], near[0], near[1]], SIDES[:3], SIDES[3])
    return np.where(found[["baseline", "encoder"]].isna().any(axis=1), "", told)


def opinions_table(found: pd.DataFrame) -> pd.DataFrame:
    """Per generator the share of its rows that both networks, one or neither find near; of "real", of validation rows."""
    rows = []
    for name, own in found.groupby("generator", sort=False):
        told = sides(own)
        known = told[told != ""]
        shares = {
            f"near for {side}": f"{100 * np.mean(known == side):.0f} %" if len(known) else "n/a" for side in SIDES
        }
        rows.append({"generator": name, "rows": len(own)} | shares)
    return pd.DataFrame(rows)


def disputed(found: pd.DataFrame, ids: pd.Series) -> list[tuple[str, np.ndarray]]:
    """Per network that alone finds rows near: the positions of these rows among `ids`, the most disputed first."""
    own = found.set_index("id").loc[ids]
    told, apart = sides(own), np.abs(np.log(own["baseline"] + 1e-6) - np.log(own["encoder"] + 1e-6)).to_numpy()
    parts = [(f"near for {side}", np.flatnonzero(told == side)) for side in SIDES[1:3]]
    return [(name, rows[np.argsort(-apart[rows], kind="stable")]) for name, rows in parts]
