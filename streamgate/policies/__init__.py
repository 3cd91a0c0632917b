"""Reasons to admit, refuse, change or repeat an exchange; one file each, decisions only."""
