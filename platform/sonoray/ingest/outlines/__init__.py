"""DICOM segmentations: from outlines of pictures to the masks of images that were kept."""
