"""What CLIP is pretrained for: named losses behind the interface of `tower_objective`.

A new one is a file here, its class in `llava_ultra.config.ClipObjectiveConfig`, and an entry in
`bootstrap.clip.objectives`.
"""
