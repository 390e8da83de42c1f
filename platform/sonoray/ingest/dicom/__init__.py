"""DICOM ultrasound objects: from one object's bytes to 8-bit frames and allow-listed labels.

`objects` is the entry: `describe_object` reads a header, `decode_object` the chosen frames. Both
run in the processes of `sonoray.images.sandbox`, so this package imports neither Ray nor Arrow. It
knows single objects only; `sonoray.ingest.sources.dicom_studies` groups them to studies.

De-identification is by construction: `header.TAGS` lists every attribute that is read, and `labels`
is the only way out for what they say. Identifiers go to ingest, which hashes them; names go there
too, since texts and labels are searched for them (`header.IDENTIFYING`).

What is not accepted is a `RejectedImageError` with one of the reasons `not_dicom`, `not_an_image`,
`other_modality`, `other_class`, `too_many_bytes`, `encrypted`, `unsupported_compression`,
`unsupported_syntax`, `unreadable`, `missing_attribute`, `contradiction`, `unsupported_pixels`,
`too_many_frames`, `too_many_pixels`, `truncated`, `bad_window`, `bad_palette`, `no_scan_area`,
`burned_in_annotation`, or one of `sonoray.images.sandbox`.
"""
