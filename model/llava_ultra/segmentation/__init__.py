"""Text to mask: what a decoder makes of an instruction prompts SAM's mask decoder.

Zeus (arXiv 2504.07336) has a frozen language model write instructions that condition a segmenter
with SAM's mask decoder. Its abstract is known; docs/methods.md says what is our choice.

- `segmentation_config`: instructions, prompts, sizes.
- `prompting`: boxes and points of true masks, as a person would draw them.
- `segmenter`: cached features and a prompt in, a mask out.
- `mask_learning`: from pairs of image and instruction to a segmenter.
"""
