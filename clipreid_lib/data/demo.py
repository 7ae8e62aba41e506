"""Facts about the demo data set: hands that this project draws, in 11k Hands' layout, and reads with its reader."""

from clipreid_lib.data.contract import Summary
from clipreid_lib.data.eleven_k import ASPECTS

SUMMARY = Summary(
    title="synthetic hands, drawn here in 11k Hands' layout",
    licence="MIT, like the program that draws them",
    citation="none; say that the hands are drawn",
    where="nothing to get; they are drawn on first use",
    aspects=tuple(ASPECTS.values()),
    protocol="own",
    size=(160, 120),
)
