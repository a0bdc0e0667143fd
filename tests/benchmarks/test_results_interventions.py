"""The parts on ablation and steering say what was measured, and claim only what the record does."""

from __future__ import annotations

from benchmarks import results_page


def interval(value: float, low: float, high: float) -> dict[str, object]:
    return {"value": value, "low": low, "high": high, "n": 10, "n_clusters": 10}


def share(hits: int, n: int = 10) -> dict[str, object]:
    return {"hits": hits, "n": n, "low": 0.1, "high": 0.9}


def setting(name: str, role: str, refused: int, moved: float | None) -> dict[str, object]:
    change = None
    if moved is not None:
        change = {
            "margin_harmful": interval(moved, moved - 1, moved + 1),
            "perplexity": interval(1.25, 1.2, 1.3),
        }
    return {
        "name": name,
        "role": role,
        "what": f"{role} of all",
        "harmful": share(refused),
        "answered": share(10 - refused),
        "harmless": share(0),
        "incoherent": share(1, 20),
        "margin_harmful": interval(5.0, 4.0, 6.0),
        "margin_harmless": interval(-8.0, -9.0, -7.0),
        "perplexity": interval(20.0, 18.0, 22.0),
        "kl_first": None if change is None else interval(0.07, 0.05, 0.09),
        "kl_continuation": None if change is None else interval(0.02, 0.01, 0.03),
        "change": change,
        "control_margins": [-0.5, 0.25] if role == "comparison" else [],
    }


def ablation(claim: str, *, holds: bool) -> dict[str, object]:
    about = {"name": "refusal", "block": 3, "where": "all blocks", "mode": "mean"}
    about |= {"judge": "combined", "n": {"harmful": 10, "harmless": 10}}
    rows = [
        setting("clean", "clean", 9, None),
        setting("ablated", "ablation", 2, -13.0),
        setting("zero", "comparison", 1, -15.5),
    ]
    style = {name: share(4) for name in ("opener", "hedge", "list", "disclaimer")}
    style |= {"score": interval(0.4, 0.3, 0.5), "words": interval(17.0, 15.0, 19.0)}
    return {
        "refusal": {
            "about": about,
            "rows": rows,
            "claim": claim,
            "verdict": {"reason": "the reason", "p_rank": 1 / 6},
        },
        "style": {
            "about": {"refusal": "refusal", "block": 5, "n": about["n"]},
            "styles": [{"name": "clean", "style": style}],
            "holds": holds,
            "verdict": {"signature": interval(0.1, 0.05, 0.15), "reason": "style stays"},
        },
    }


def test_each_cell_of_an_ablation_is_the_measured_number() -> None:
    page = results_page.render({"ablation": ablation("causally necessary", holds=True)})
    lines = page.splitlines()
    (row,) = [line for line in lines if line.startswith("| ablated")]
    assert "2/10 = 20.0%" in row
    assert "0.070, 0.020" in row
    assert "20.0 (x1.25)" in row
    assert "1/20" in row
    (compared,) = [line for line in lines if line.startswith("| zero | comparison")]
    assert "-15.50 [-16.50, -14.50] | -0.50 to +0.25" in compared
    assert "Claim: causally necessary; the reason, rank p = 0.167." in lines
    assert "score +0.100 [+0.050, +0.150]. Holds: style stays." in page


def test_no_claim_and_a_failed_style_are_said() -> None:
    page = results_page.render({"ablation": ablation("none", holds=False)})
    assert "Claim: no claim; the reason" in page
    assert "causally" not in page
    assert "Fails: style stays." in page


def frontier(low: float) -> dict[str, object]:
    point = {
        "name": "adasteer",
        "defence": interval(0.8, 0.7, 0.9),
        "compliance": interval(0.75, 0.7, 0.8),
        "incoherent": 0.05,
        "kl": interval(0.01, 0.0, 0.02),
        "perplexity": interval(1.004, 1.0, 1.01),
        "touched": 7,
        "groups": {"test|plain": {"hits": 3, "n": 4}},
    }
    clean = {**point, "name": "unsteered", "kl": None, "perplexity": None, "touched": 0}
    gain = {"name": "adasteer", "value": 0.1, "low": low, "high": 0.2, "ahead": low > 0}
    return {
        "frontier": {
            "judge": "combined",
            "n_harmful": 4,
            "n_benign": 8,
            "points": [clean, point],
            "advantages": [gain],
        }
    }


def test_a_policy_is_ahead_only_where_its_interval_is() -> None:
    ahead = results_page.render({"steering": frontier(0.05)})
    behind = results_page.render({"steering": frontier(-0.05)})
    assert "- adasteer: +0.100 [+0.050, +0.200]: ahead" in ahead
    assert "- adasteer: +0.100 [-0.050, +0.200]: not shown to be ahead" in behind
    assert "| unsteered | 80.0% [70.0%, 90.0%] | 75.0% [70.0%, 80.0%] | 5% | - | - | 0 |" in ahead
    assert "| test, plain | 3/4 | 3/4 |" in ahead
