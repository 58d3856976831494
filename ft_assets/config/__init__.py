"""The settings of config.yaml: their model, how they are loaded, and how a stage reads them from their artifact."""
