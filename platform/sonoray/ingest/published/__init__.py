"""Sources of published data sets, one module each, behind `sonoray.ingest.sources.base.Source`."""
