"""How well classes are recognised: figures of one class against all others, and their means."""
