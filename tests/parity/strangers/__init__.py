"""Models that could be anybody's, right ports and wrong ones: what `parity.compare` must say of each, by theme."""
