"""Where studies come from: one module per source, all behind `sonoray.sources.base.Source`."""
