"""Searched experts on real images, plain and with classes balanced, beside what they must be compared with."""
