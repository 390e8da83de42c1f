"""Names of what recognition can do: for configurations, which import no torch."""

from typing import Literal

Variant = Literal["cross", "plain"]
"""Whether DFAT holds the global vector of one side against the local one of the other, or like
against like."""
Pooling = Literal["mean", "max", "attention"]
"""How the several descriptions of a class become one similarity."""
HeadKind = Literal["identity", "linear", "mlp"]
AnchorKind = Literal["embeddings", "decoder"]
"""What DKAM holds pictures against: descriptions as token embeddings, or as the decoder reads
them."""
Readout = Literal["global", "cross"]
"""Which vectors of a picture and a class text are compared when answering."""
Against = Literal["descriptions", "prompts", "embeddings"]
"""What a class is told by when answering: its descriptions, or the prompt with its name, both as
the decoder reads them; or its descriptions as DKAM reads token embeddings."""
