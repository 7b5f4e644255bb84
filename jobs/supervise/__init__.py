"""Supervises workers: the journal, the watchdog, actor starts, shutdown."""
