"""Named jobs: what a person or CI launches by name. Automation policies join them here, each with its reason."""

# the signature of define_asset_job is partly untyped
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import dagster as dg

# All assets, in the order of the data's way: the button of `make demo` and of the UI's "launch job".
everything = dg.define_asset_job(
    "everything",
    selection=dg.AssetSelection.all(),
    description="Every asset and every check, from files to what is released.",
)

# Checks alone, for CI: judges what stands, makes nothing.
compat_gate = dg.define_asset_job(
    "compat_gate",
    selection=dg.AssetSelection.all_asset_checks(),
    description="Every check and no asset. `ft gate` runs it and turns the results into an exit code.",
)

# The side of the graph that serves retrieval; needs no language model.
retrieval_side = dg.define_asset_job(
    "retrieval_side",
    selection=dg.AssetSelection.assets("released_collection", "fusion_sweep").upstream(),
    description="Passages, embedding model, collection and its release.",
)

# The side that trains the generator; needs no vector engine.
adapter_side = dg.define_asset_job(
    "adapter_side",
    selection=dg.AssetSelection.assets("released_adapter").upstream(),
    description="Records, splits, SFT and DPO adapters and their release.",
)

JOBS = [everything, compat_gate, retrieval_side, adapter_side]
