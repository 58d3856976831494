"""The Dagster code location. One folder a stage, in the order of the data's way; wiring lives in definitions.py."""

import warnings

# Dagster repeats the warning for each of our four observed sources, wherever the location is loaded.
warnings.filterwarnings("ignore", message="Function `observable_source_asset` is currently in beta")
warnings.filterwarnings("ignore", message="Parameter `use_user_code_server` .* is currently in beta")
