"""Report pages: what stands on them, how they are drawn and captured, how they are read.

`page_records` takes records of the phantom, `page_drawing` sets them as pages, `page_capture` makes
a screenshot, a scan or a photograph of a page. `page_reader` reads an image of a page with OCR,
`page_layout` puts what was read into lines with cells. `page_folder` keeps pages and questions.
"""
