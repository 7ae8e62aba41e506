"""Photographs: opened, resized, kept decoded, and augmented."""
