"""Jobs about studies: ingest, audit, quarantine, phantom, and checks of texts and patients."""
