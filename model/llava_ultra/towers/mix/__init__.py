"""Further towers of a mix, beside CLIP and SAM: any of open_clip, SAM of other sizes, others'."""
