"""Detectors, their training and the strategies that rank images; knows no Label Studio, Flask or Redis."""
