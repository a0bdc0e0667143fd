"""A pattern names exactly the sites it says, in the order of computation, or is refused."""

from __future__ import annotations

import pytest

import hooks
from hooks.errors import SiteError
from hooks.sites import BLOCK_KINDS, expand_all, expand_pattern
from tests.hooks.common import LAYERS, model


def test_a_star_names_every_block_and_a_range_both_its_ends() -> None:
    star = [site.name for site in expand_pattern("blocks.*.hook_resid_post", 12)]
    assert star == [f"blocks.{block}.hook_resid_post" for block in range(12)]
    part = [site.name for site in expand_pattern("blocks.9-11.attn.hook_z", 12)]
    assert part == [f"blocks.{block}.attn.hook_z" for block in (9, 10, 11)]
    assert [site.name for site in expand_pattern("blocks.*", 2)] == [
        "blocks.0.hook_resid_post",
        "blocks.1.hook_resid_post",
    ]


def test_sites_sort_as_the_model_computes_them_and_come_once() -> None:
    wanted = ["unembed.hook_out", "blocks.*.hook_resid_post", "hook_embed", "blocks.1.ln1.hook_out"]
    names = [site.name for site in expand_all([*wanted, "blocks.0.hook_resid_post"], 2)]
    assert names == [
        "hook_embed",
        "blocks.0.hook_resid_post",
        "blocks.1.ln1.hook_out",
        "blocks.1.hook_resid_post",
        "unembed.hook_out",
    ]


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("blocks.*.hook_resid_pots", "is not a site"),
        ("block.*.hook_resid_post", "is not a site"),
        ("blocks.12.hook_resid_post", "blocks 0 to 11"),
        ("blocks.3-12.hook_resid_post", "blocks 0 to 11"),
        ("blocks.5-3.hook_resid_post", "blocks 0 to 11"),
        ("blocks.-1.hook_resid_post", "is not a site"),
        ("", "is not a site"),
        ([], "no site was asked for"),
        (["blocks.*.hook_resid_post", "blocks.*.hook_resid_pst"], "hook_resid_pst"),
    ],
)
def test_what_names_nothing_is_refused(pattern: str | list[str], why: str) -> None:
    with pytest.raises(SiteError, match=why):
        expand_all(pattern, 12)


def test_a_model_expands_its_own_sites() -> None:
    assert hooks.expand("blocks.*.hook_mlp_out", model()) == tuple(
        f"blocks.{block}.hook_mlp_out" for block in range(LAYERS)
    )
    assert set(model().served()) >= set(BLOCK_KINDS)
    assert "hook_resid_mid" not in model("gpt_neox").served()
    with pytest.raises(SiteError, match="in parallel"):
        hooks.expand("blocks.0.hook_resid_mid", model("gpt_neox"))
