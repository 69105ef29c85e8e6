"""Measures of a trained model's samples against data."""
