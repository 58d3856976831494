"""The settings assets of the small projects in these tests, which generate no rows."""

from __future__ import annotations

from ft_assets.settings.assets import ASSETS

SETTINGS = [asset for asset in ASSETS if asset.key.to_user_string() not in {"kbalign_settings", "ddr_settings"}]
