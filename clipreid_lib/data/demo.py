"""Facts about the demo data set: hands that this project draws, in 11k Hands' layout, and reads with its reader."""

from clipreid_lib.data.contract import Summary

SUMMARY = Summary(
    title="synthetic hands, drawn here in 11k Hands' layout",
    licence="MIT, like the program that draws them",
    citation="none; say that the hands are drawn",
    where="nothing to get; they are drawn on first use",
    protocol="own",
    size=(160, 120),
)
