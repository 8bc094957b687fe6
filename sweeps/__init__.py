"""Shipped sweep files, found by name: `tensloradist plan demo`."""
