"""What CLIP is pretrained for: named losses behind the interface of `tower_objective`.

A new one is a file here, its class in `ClipObjectiveConfig` of
`llava_ultra.pretrain.pretrain_config`, and an entry in `bootstrap.clip.objectives`.
"""
