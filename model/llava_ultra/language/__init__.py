"""The language side: tokenizer, decoder, LoRA and the chat format."""
