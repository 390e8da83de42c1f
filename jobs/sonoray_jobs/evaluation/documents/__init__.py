"""Questions about report pages: `make_pages` makes them, `ask_pages` answers and judges.

`page_pool` sends pages through actors that read them (`page_reading`) or ask a model
(`page_asking`), `field_lookup` answers without one, `document_report` counts.
"""
