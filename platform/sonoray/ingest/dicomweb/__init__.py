"""DICOMweb, the client's side: find instances with QIDO-RS, bring them here with WADO-RS.

`address` checks the URL and holds the credentials, `client` makes single requests with tries and
counts them, `search` turns a query into a list of instances, `multipart` takes an object out of an
answer, `spool` is the folder where objects wait, `held` holds them in memory, `fetch` fills either
with several requests at a time. What becomes of the objects is the matter of
`sonoray.ingest.sources.dicomweb_server`, and of a service that is asked about one study.

No message and no log of this package names a UID, a query's value, a credential or what a server
says in words: any of them may identify a patient.

urllib3 is used as it is. dicomweb-client would read every object into memory, write it anew through
pydicom, ignore Retry-After, and ask a server that ignores the offset for ever.

Source: DICOM PS3.18, sections 8.3 (query), 10.4 (retrieve) and 10.6 (search).
"""
