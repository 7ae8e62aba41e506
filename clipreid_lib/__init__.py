"""Hand-based person re-identification with CLIP: the library behind the numbered notebooks."""

__version__ = "0.2.0"
