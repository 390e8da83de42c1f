"""The frozen encoders: what they are, how pixels reach them, how published weights become
towers.
"""
