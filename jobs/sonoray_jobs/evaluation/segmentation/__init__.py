"""Text to mask: instructions that condition SAM's mask decoder, judged on true masks.

- `masked_images`: the images with masks, and what each instruction means in them.
- `told_images`: the decoder's states of instructions about single images, as a Ray Data actor.
- `outlining`: learning, and the masks of the judged images under every prompt, as one Ray task.
- `segment`: the job that puts them together.
- `segment_report`: the prompts beside each other, in numbers.
- `overlays`: outlines over the images, for reading with one's own eyes.
"""
