"""What a model costs: parameters, FLOPs and bytes, counted without computing."""
