"""LLaVA-Ultra: encoders, fusion, adaptive sampling, connector, language model, generation."""
