"""Geometry without a family: outlines in the plane, and what later models share. Import the modules themselves."""
