"""Backups: a folder that has all of an engine at one moment, made while it trades."""
