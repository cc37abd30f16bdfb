"""Which image teaches the detector most: uncertainties, strategies and the order that comes out of them."""
