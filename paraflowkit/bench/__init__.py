"""Grids of runs that answer: is it faster, and is the image the same?"""
